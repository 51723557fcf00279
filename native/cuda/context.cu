#include "context.h"

#include <mutex>

#include "../core/gpuError.h"

namespace loram {
namespace {

thread_local const char* running = "";

int gpu = 0;

std::mutex mutex;
std::string stoppedBy;  // empty while the backend works

// Of the large pieces of scratch memory, what stays with the process between ops instead of going back to the driver.
constexpr uint64_t keptScratch = 256 << 20;

__global__ void probe() {}

// An error of one call leaves the context usable; after one of a kernel every later call gives it again.
bool isLasting(cudaError_t status) { return cudaDeviceSynchronize() == status; }

cudaStream_t createStream() {
  cudaStream_t created;
  check(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, gpu));
  uint64_t kept = keptScratch;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept));
  return created;
}

}  // namespace

void enter(const char* what) {
  {
    std::lock_guard lock(mutex);
    if (!stoppedBy.empty()) throw GpuError("the GPU stopped working earlier, " + stoppedBy);
  }
  running = what;
  // CUDA has a current GPU for every thread, at first 0.
  thread_local bool isChosen = false;
  if (!isChosen) check(cudaSetDevice(gpu));
  isChosen = true;
}

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // takes the error off the thread
  const std::string message = std::string("in ") + running + ": " + cudaGetErrorString(status);
  if (isLasting(status)) {
    std::lock_guard lock(mutex);
    stoppedBy = message;
  }
  throw GpuError(message);
}

void checkAllocation(cudaError_t status, size_t bytes) {
  if (status != cudaErrorMemoryAllocation) return check(status);
  cudaGetLastError();
  size_t free, total;
  check(cudaMemGetInfo(&free, &total));
  throw GpuOutOfMemory(bytes, free);
}

cudaStream_t stream() {
  static const cudaStream_t created = createStream();
  return created;
}

void useGpu(int localRank) {
  int visible = 0;
  if (cudaGetDeviceCount(&visible) != cudaSuccess) cudaGetLastError();
  if (visible > 1 && localRank >= visible) {
    throw GpuError("local rank " + std::to_string(localRank) + " has no GPU: " + std::to_string(visible) +
                   " are visible");
  }
  gpu = visible > 1 ? localRank : 0;
}

int gpuIndex() { return gpu; }

bool kernelsOverlap() {
  static const bool known = [] {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, probe));
    return attributes.ptxVersion >= 90;
  }();
  return known;
}

GpuProperties gpuProperties() {
  // The runtime has one error for a driver that is not there and one that is too old
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) throw GpuError("there is no NVIDIA driver: libcuda.so.1 is not found");
  constexpr int needed = CUDART_VERSION / 1000 * 1000;
  if (driver < needed) {
    throw GpuError("the NVIDIA driver runs CUDA " + cudaVersion(driver) + ", this needs " + cudaVersion(needed) +
                   ": update the driver");
  }
  cudaDeviceProp device;
  cudaFuncAttributes attributes;
  for (const cudaError_t status :
       {cudaGetDeviceProperties(&device, gpu), cudaSetDevice(gpu), cudaFuncGetAttributes(&attributes, probe)}) {
    if (status != cudaSuccess) throw GpuError(cudaGetErrorString(status));
  }
  return {device.name, device.major, device.minor, device.multiProcessorCount, driver};
}

}  // namespace loram
