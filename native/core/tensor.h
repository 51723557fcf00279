#pragma once
#include <cstdint>

#include "dtype.h"

namespace loram {

constexpr int maxRank = 4;

// What an op sees of a tensor: row-major, contiguous memory that somebody else owns for the duration of the call.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[maxRank] = {};

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return elements() * bytesPerElement(dtype); }
  // As a matrix: the last dimension is the row, all others together count the rows.
  int64_t columns() const { return rank ? shape[rank - 1] : 1; }
  int64_t rows() const { return columns() ? elements() / columns() : 0; }
  // An optional tensor that was not passed has no memory.
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace loram
