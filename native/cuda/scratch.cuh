#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"
#include "scratch.h"

namespace loram {

// Device memory for the duration of one op: taken and given back in the stream's order, so that the ops that follow
// reuse it. Rows of a scratch matrix lie 64 elements apart or a multiple of that (paddedPitch), as every bf16 matrix.
template <class T>
class Scratch {
 public:
  Scratch(int64_t count, cudaStream_t stream) : bytes_(count * sizeof(T)), stream_(stream) {
    if (bytes_ > 0) data_ = static_cast<T*>(takeScratch(bytes_, stream));
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (data_) giveScratchBack(data_, bytes_, stream_);
  }
  T* data() const { return data_; }

 private:
  size_t bytes_;
  cudaStream_t stream_;
  T* data_ = nullptr;
};

inline int64_t paddedPitch(int64_t columns) { return (columns + 63) / 64 * 64; }

}  // namespace loram
