#pragma once
#include <algorithm>

#include "../core/tensor.h"
#include "mma.cuh"
#include "pipeline.cuh"
#include "scratch.cuh"

namespace loram {

// Row-major, its rows `pitch` elements apart: a multiple of 8, with `data` on a multiple of 16 bytes. It is read in
// chunks of 8 neighbours in a row, which are zero beyond the matrix.
struct Bf16Matrix {
  static constexpr bool async = true;
  using Fragment = uint4;
  const __nv_bfloat16* data;
  int64_t pitch;
  int rows, columns;

  // To shared memory, behind the computation.
  __device__ void copy(uint32_t target, int row, int column) const {
    const int bytes = row < rows ? max(0, min(16, 2 * (columns - column))) : 0;
    copyAsync(target, bytes ? data + row * pitch + column : data, bytes);
  }
  // To registers: fetch() starts the load, decode() waits for it.
  __device__ Fragment fetch(int row, int column) const {
    const bool inside = row < rows && column < columns;
    return inside ? __ldg(reinterpret_cast<const uint4*>(data + row * pitch + column)) : uint4{};
  }
  __device__ uint4 decode(const Fragment& v, int, int column) const {
    const int count = columns - column;
    if (count >= 8) return v;
    return {v.x & pairMask(count), v.y & pairMask(count - 2), v.z & pairMask(count - 4), v.w & pairMask(count - 6)};
  }
  // Of a pair, the first `count` elements.
  static __device__ uint32_t pairMask(int count) { return count >= 2 ? 0xffffffff : count == 1 ? 0xffff : 0; }
};

// Rows end with a whole chunk.
static __global__ void roundToBf16(const float* source, int64_t sourcePitch, __nv_bfloat16* target, int64_t pitch,
                                   int64_t rows, int64_t columns) {
  awaitPrevious();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, written = ceilDiv(columns, 8) * 8;
  for (int64_t i = first; i < rows * written; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / written, column = i % written;
    target[row * pitch + column] = __float2bfloat16(column < columns ? source[row * sourcePitch + column] : 0);
  }
}

// A tensor as an operand of the tensor cores: itself if it is bf16, else a copy, rounded, that lives as long as this. An empty matrix for an absent tensor.
class Bf16Operand {
 public:
  Bf16Operand(const Tensor& tensor, cudaStream_t stream)
      : copy_(!tensor || tensor.dtype == DType::bf16 ? 0 : tensor.rows() * paddedPitch(tensor.columns()), stream) {
    if (!tensor) return;
    const int rows = static_cast<int>(tensor.rows()), columns = static_cast<int>(tensor.columns());
    if (tensor.dtype == DType::bf16) {
      matrix_ = {tensor.as<const __nv_bfloat16>(), tensor.pitch, rows, columns};
      return;
    }
    matrix_ = {copy_.data(), paddedPitch(columns), rows, columns};
    const int64_t blocks = std::min<int64_t>(ceilDiv(tensor.elements(), int64_t{256}), 8192);
    launch(roundToBf16, static_cast<unsigned>(blocks), 256, stream, tensor.as<float>(), tensor.pitch, copy_.data(),
           matrix_.pitch, rows, columns);
  }
  const Bf16Matrix& operator*() const { return matrix_; }
  const Bf16Matrix* operator->() const { return &matrix_; }

 private:
  Scratch<__nv_bfloat16> copy_;
  Bf16Matrix matrix_ = {};
};

}  // namespace loram
