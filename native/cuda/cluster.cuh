// Clusters of blocks that read each other's shared memory: sm_90 and later.
#pragma once
#include <cstdint>

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

}  // namespace loram
