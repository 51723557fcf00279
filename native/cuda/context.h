#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/cudaLibrary.h"

namespace loram {

// The state of the process's one GPU context: its stream, and whether an error has made it unusable.

// Announces what is about to run, for errors to name. Throws GpuError when an earlier error stopped the backend.
void enter(const char* what);

// Throws GpuError when `status` is an error; one that CUDA does not recover from stops the backend.
void check(cudaError_t status);

// The same for an allocation of `bytes`: throws GpuOutOfMemory when there are not so many.
void checkAllocation(cudaError_t status, size_t bytes);

// Everything runs here, in the order of the calls.
cudaStream_t stream();

// Chooses the GPU, before any other call: of several that are visible the one with this number, else the only one. Throws
// GpuError when there are several, but not so many.
void useGpu(int localRank);

// The GPU's number.
int gpuIndex();

// Whether a kernel may be started before the one before it has ended: it runs on sm_90 or later, and was compiled for that.
bool kernelsOverlap();

// Throws GpuError when there is no GPU, or none that the kernels here were compiled for.
GpuProperties gpuProperties();

}  // namespace loram
