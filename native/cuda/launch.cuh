#pragma once
#include <cuda_runtime.h>

#include "context.h"

namespace loram {

// Every kernel calls this before it reads or writes what others do. On sm_90 and later its blocks are started as soon as those
// of the kernel before it have ended (programmatic dependent launch), a microsecond or two before their results are sure to be
// seen; from here on all that was queued earlier is done. All blocks call it, also those that have nothing to do: the next
// kernel's wait counts on it. No kernel lets the next one start earlier: blocks that wait crowd on the multiprocessors that are
// free first, and stay there.
__device__ inline void awaitPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Queues `kernel` with so much shared memory, on clusters of so many neighbouring blocks; nothing, where there are no blocks.
template <class... Parameters, class... Arguments>
void queueKernel(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, int sharedBytes, int blocksOfCluster,
                 cudaStream_t stream, const Arguments&... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = sharedBytes, config.stream = stream;
  config.attrs = attributes;
  if (kernelsOverlap()) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (blocksOfCluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(blocksOfCluster), 1, 1};
  }
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Queues `kernel` on `blocks` blocks of `threads` threads.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t stream,
            const Arguments&... arguments) {
  queueKernel(kernel, blocks, threads, 0, 1, stream, arguments...);
}

// The same with so much shared memory, which may be more than the 48 KB that every kernel has, in clusters of so many
// neighbouring blocks, at most 8; from sm_90 on.
template <auto kernel, int sharedBytes, class... Arguments>
void launchClusters(int blocksOfCluster, dim3 blocks, dim3 threads, cudaStream_t stream,
                    const Arguments&... arguments) {
  [[maybe_unused]] static const bool isAllowed = [] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes));
    return true;
  }();
  queueKernel(kernel, blocks, threads, sharedBytes, blocksOfCluster, stream, arguments...);
}

// The same without clusters.
template <auto kernel, int sharedBytes, class... Arguments>
void launchWithShared(dim3 blocks, dim3 threads, cudaStream_t stream, const Arguments&... arguments) {
  launchClusters<kernel, sharedBytes>(1, blocks, threads, stream, arguments...);
}

template <class A, class B>
__host__ __device__ constexpr A ceilDiv(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace loram
