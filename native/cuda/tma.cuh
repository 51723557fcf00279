// Hopper's copy engine: tiles of a matrix between global and shared memory, announced at barriers in shared memory.
#pragma once
#include <cudaTypedefs.h>

#include "bf16Matrix.cuh"

namespace loram {

// A matrix as the copy engine sees it, in boxes: what a box has beyond the matrix is read as zeros and not written.
inline CUtensorMap tensorMap(const void* data, DType dtype, int64_t pitch, int64_t rows, int64_t columns, int boxRows,
                             int boxColumns, CUtensorMapSwizzle swizzle) {
  static const auto encode = [] {
    void* function;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(pitch * bytesPerElement(dtype))};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(boxColumns), static_cast<cuuint32_t>(boxRows)}, steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, dtype == DType::f32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
             const_cast<void*>(data), size, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(cudaErrorInvalidValue);
  return map;
}

// Boxes that are mma.cuh's panels: rows of 128 bytes, swizzled.
inline CUtensorMap panelMap(const void* data, DType dtype, int64_t pitch, int64_t rows, int64_t columns, int boxRows) {
  const auto boxColumns = static_cast<int>(128 / bytesPerElement(dtype));
  return tensorMap(data, dtype, pitch, rows, columns, boxRows, boxColumns, CU_TENSOR_MAP_SWIZZLE_128B);
}

// Barriers: a phase ends when `count` threads have arrived and the bytes they expect are there. Waiting for the phase
// of the parity before the first returns at once.
__device__ inline void barrierInit(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void barrierInitFence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrierArriveExpecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrierWait(uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ inline void prefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
__device__ inline void tmaLoad(uint32_t target, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          target),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
__device__ inline void tmaStore(const CUtensorMap& map, int column, int row, uint32_t source) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column),
               "r"(row), "r"(source)
               : "memory");
}
// Adds to what the matrix holds, rounding to its dtype.
__device__ inline void tmaAdd(const CUtensorMap& map, int column, int row, uint32_t source) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
      "r"(column), "r"(row), "r"(source)
      : "memory");
}
__device__ inline void tmaCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until all but the last `groups` stores have read their source.
template <int groups>
__device__ inline void tmaWaitRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(groups) : "memory");
}
template <int groups>
__device__ inline void tmaWait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(groups) : "memory");
}
// Makes this thread's writes to shared memory visible to the copy engine and the tensor cores.
__device__ inline void asyncProxyFence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace loram
