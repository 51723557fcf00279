#pragma once
#include "context.h"

namespace loram {

// Queues `kernel` on `blocks` blocks of `threads` threads; none, when there is nothing to do.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t stream, Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  kernel<<<blocks, threads, 0, stream>>>(arguments...);
  check(cudaGetLastError());
}

template <class A, class B>
__host__ __device__ constexpr A ceilDiv(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace loram
