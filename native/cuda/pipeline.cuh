// Copies from global to shared memory that run behind the computation: cp.async, for sm_80 and later.
#pragma once
#include <cstdint>

namespace loram {

// 16 bytes, of which the first `bytes` are read and the others become zero; with 0 nothing is read at all.
__device__ inline void copyAsync(uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}

// Closes a group of copies; waitCopies<n> then waits for all groups but the last n.
__device__ inline void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups>
__device__ inline void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace loram
