#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace loram {

// The state of the process's one GPU context: the stream, and whether an error has made it unusable.

// Announces what is about to run, for errors to name. Throws GpuError when an earlier error stopped the backend.
void enter(const char* what);

// Throws GpuError when `status` is an error; one that CUDA cannot recover from stops the backend.
void check(cudaError_t status);

// Everything runs here, in the order of the calls.
cudaStream_t stream();

// Device memory for the partial results of the op that runs now. The next op may overwrite it.
void* scratch(size_t bytes);

template <class T>
T* scratchOf(size_t count) {
  return static_cast<T*>(scratch(count * sizeof(T)));
}

// Multiprocessors of the GPU.
int multiprocessors();

}  // namespace loram
