#pragma once
#include "launch.cuh"

namespace loram {

inline int deviceAttribute(cudaDeviceAttr attribute) {
  int device, value;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}
inline int multiprocessors() { return deviceAttribute(cudaDevAttrMultiProcessorCount); }

// Queues a kernel that takes more than the 48 KB of shared memory that every kernel may have.
template <class... Parameters, class... Arguments>
void launchWithShared(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, int sharedBytes, cudaStream_t stream,
                      const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes));
  kernel<<<blocks, threads, sharedBytes, stream>>>(arguments...);
  check(cudaGetLastError());
}

}  // namespace loram
