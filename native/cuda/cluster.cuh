// Clusters of blocks that read each other's shared memory: sm_90 and later.
#pragma once
#include <cstdint>

#include "device.cuh"

namespace loram {

// Waits for all threads of all blocks of the cluster but those that have ended, and shows them what was written.
__device__ inline void clusterSync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// Where the cluster's block `block` has what this one has at `address`.
__device__ inline uint32_t sharedOfBlock(uint32_t address, int block) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  return there;
}
__device__ inline float4 loadCluster(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// A launch in clusters of so many neighbouring blocks, at most 8.
struct ClusterLaunch {
  cudaLaunchAttribute cluster = {};
  cudaLaunchConfig_t config = {};

  ClusterLaunch(int blocksOfCluster, dim3 blocks, dim3 threads, int sharedBytes, cudaStream_t stream) {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(blocksOfCluster), 1, 1};
    config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = sharedBytes, config.stream = stream;
    config.attrs = &cluster, config.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;  // config points to cluster
};

// As launchWithShared.
template <auto kernel, int sharedBytes, class... Arguments>
void launchClusters(int blocksOfCluster, dim3 blocks, dim3 threads, cudaStream_t stream,
                    const Arguments&... arguments) {
  allowShared<kernel, sharedBytes>();
  const ClusterLaunch launch(blocksOfCluster, blocks, threads, sharedBytes, stream);
  check(cudaLaunchKernelEx(&launch.config, kernel, arguments...));
}

// Clusters of a kernel that the GPU runs at a time: its multiprocessors lie in groups, which a cluster does not leave.
template <auto kernel, int sharedBytes, int blocksOfCluster>
int clustersAtOnce(dim3 threads) {
  static const int clusters = [&] {
    allowShared<kernel, sharedBytes>();
    const ClusterLaunch launch(blocksOfCluster, blocksOfCluster, threads, sharedBytes, nullptr);
    int count = 0;
    check(cudaOccupancyMaxActiveClusters(&count, kernel, &launch.config));
    return count;
  }();
  return clusters;
}

}  // namespace loram
