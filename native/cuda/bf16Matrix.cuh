#pragma once
#include "../core/tensor.h"
#include "mma.cuh"
#include "pipeline.cuh"
#include "scratch.cuh"

namespace loram {

// Row-major, its rows `pitch` elements apart: a multiple of 8, with `data` on a multiple of 16 bytes. It is read in chunks
// of 8 neighbours in a row, which are zero beyond the matrix.
struct Bf16Matrix {
  static constexpr bool async = true;
  struct Fragment {
    uint4 values;
  };
  const __nv_bfloat16* data;
  int64_t pitch;
  int rows, columns;

  __device__ void copy(uint32_t target, int row, int column) const {
    const int bytes = row < rows ? max(0, min(16, 2 * (columns - column))) : 0;
    copyAsync(target, bytes ? data + row * pitch + column : data, bytes);
  }
  __device__ Fragment fetch(int row, int column) const {
    if (row >= rows || column >= columns) return {};
    uint4 values = __ldg(reinterpret_cast<const uint4*>(data + row * pitch + column));
    const int count = columns - column;
    if (count < 8) {
      values.x &= pairMask(count), values.y &= pairMask(count - 2), values.z &= pairMask(count - 4);
      values.w &= pairMask(count - 6);
    }
    return {values};
  }
  // Of a pair, the first `count` elements.
  static __device__ uint32_t pairMask(int count) { return count >= 2 ? 0xffffffff : count == 1 ? 0xffff : 0; }
};

static __global__ void roundToBf16(const float* source, int64_t sourcePitch, __nv_bfloat16* target, int64_t pitch,
                                   int64_t rows, int64_t columns) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column < columns) target[row * pitch + column] = __float2bfloat16(source[row * sourcePitch + column]);
  }
}

// A tensor as an operand of the tensor cores: itself if it is bf16, else a copy, rounded, that lives as long as this.
class Bf16Operand {
 public:
  Bf16Operand(const Tensor& tensor, cudaStream_t stream)
      : copy_(tensor.dtype == DType::bf16 ? 0 : tensor.rows() * paddedPitch(tensor.columns()), stream) {
    const int rows = static_cast<int>(tensor.rows()), columns = static_cast<int>(tensor.columns());
    if (tensor.dtype == DType::bf16) {
      matrix_ = {tensor.as<const __nv_bfloat16>(), tensor.pitch, rows, columns};
      return;
    }
    matrix_ = {copy_.data(), paddedPitch(columns), rows, columns};
    launch(roundToBf16, dim3(ceilDiv(columns, 256), std::min(rows, 65535)), 256, stream, tensor.as<float>(), tensor.pitch,
           copy_.data(), matrix_.pitch, rows, columns);
  }
  const Bf16Matrix& operator*() const { return matrix_; }
  const Bf16Matrix* operator->() const { return &matrix_; }

 private:
  Scratch<__nv_bfloat16> copy_;
  Bf16Matrix matrix_;
};

}  // namespace loram
