#pragma once
#include <cstdint>

#include "dtype.h"

namespace loram {

constexpr int maxRank = 4;

// What an op sees of a tensor: row-major memory that somebody else owns for the duration of the call. A row is the last
// dimension; rows begin `pitch` elements apart. On the CPU, and in one dimension, pitch is the length of a row; on CUDA the
// rows of a bf16 matrix begin at multiples of 64 elements, so that 16-byte accesses and TMA always apply. What lies in the
// padding is not defined: an op may overwrite it, but its results must not depend on it. The matrices of gemm and
// nf4Gemm, and LoRA's u and d, may be columns of wider ones, on CUDA from a multiple of 16 bytes on: others' columns stay
// as they are.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[maxRank] = {};
  int64_t pitch = 1;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  // From its first element to its last, with the padding between rows.
  int64_t bytes() const { return rows() ? ((rows() - 1) * pitch + columns()) * bytesPerElement(dtype) : 0; }
  // As a matrix: the last dimension is the row, all others together count the rows.
  int64_t columns() const { return rank ? shape[rank - 1] : 1; }
  int64_t rows() const { return columns() ? elements() / columns() : 0; }
  // An optional tensor that was not passed has no memory.
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace loram
