#pragma once
#include <memory>

#include "../core/cudaLibrary.h"

namespace loram {

// Zeroed device memory. Throws GpuOutOfMemory.
std::shared_ptr<Storage> allocateCuda(size_t bytes);

GpuMemory gpuMemory();

}  // namespace loram
