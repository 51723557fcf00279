#pragma once
#include <memory>

#include "../core/cudaLibrary.h"

namespace loram {

// Zeroed device memory. Throws GpuOutOfMemory.
std::shared_ptr<Storage> allocateCuda(size_t bytes);

// Host memory that transfers read and write. Throws std::bad_alloc.
std::shared_ptr<Storage> allocatePinned(size_t bytes);

GpuMemory gpuMemory();

}  // namespace loram
