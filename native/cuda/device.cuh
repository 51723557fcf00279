#pragma once
#include "launch.cuh"

namespace loram {

template <cudaDeviceAttr attribute>
int deviceAttribute() {
  static const int known = [] {
    int value;
    check(cudaDeviceGetAttribute(&value, attribute, gpuIndex()));
    return value;
  }();
  return known;
}
inline int multiprocessors() { return deviceAttribute<cudaDevAttrMultiProcessorCount>(); }

// Lets a kernel take more than the 48 KB of shared memory that every kernel may have.
template <auto kernel, int sharedBytes>
void allowShared() {
  [[maybe_unused]] static const bool allowed = [] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes));
    return true;
  }();
}

// Queues a kernel with so much shared memory.
template <auto kernel, int sharedBytes, class... Arguments>
void launchWithShared(dim3 blocks, dim3 threads, cudaStream_t stream, const Arguments&... arguments) {
  allowShared<kernel, sharedBytes>();
  kernel<<<blocks, threads, sharedBytes, stream>>>(arguments...);
  check(cudaGetLastError());
}

}  // namespace loram
