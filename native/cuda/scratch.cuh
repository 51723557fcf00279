#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"

namespace loram {

// Device memory for the duration of one op: taken and given back in the stream's order, so that the ops that follow
// reuse it. Rows of a scratch matrix lie 64 elements apart or a multiple of that (paddedPitch), as every bf16 matrix.
template <class T>
class Scratch {
 public:
  Scratch(int64_t count, cudaStream_t stream) : stream_(stream) {
    const size_t bytes = count * sizeof(T);
    if (bytes > 0) checkAllocation(cudaMallocAsync(reinterpret_cast<void**>(&data_), bytes, stream), bytes);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (data_) cudaFreeAsync(data_, stream_);
  }
  T* data() const { return data_; }

 private:
  cudaStream_t stream_;
  T* data_ = nullptr;
};

inline int64_t paddedPitch(int64_t columns) { return (columns + 63) / 64 * 64; }

}  // namespace loram
