#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace loram {

// Memory beside tensors for what ops queue in `stream`, on a boundary of 256 bytes. Pieces go back in the opposite order,
// before the op ends; ops take turns. Throws GpuOutOfMemory.
void* takeScratch(size_t bytes, cudaStream_t stream);
void giveScratchBack(void* data, size_t bytes, cudaStream_t stream);

// The most bytes that were taken at once.
size_t scratchPeak();

}  // namespace loram
