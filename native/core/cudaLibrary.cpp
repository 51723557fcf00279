#include "cudaLibrary.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>

#include "gpuError.h"

namespace loram {
namespace {

std::atomic<const CudaLibrary*> opened;

}  // namespace

std::string openCudaLibrary(const std::string& path, int localRank) {
  if (opened) return "";
  if (access(path.c_str(), R_OK) != 0) return "not there";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return std::string("not loadable: ") + dlerror();
  using Entry = const CudaLibrary* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(handle, "loramCudaLibrary"));
  if (!entry) return "not a loram CUDA library: " + path;
  const CudaLibrary* library = entry();
  if (std::string(library->version) != LORAM_VERSION) {
    return std::string("built for loram ") + library->version + ", this is " + LORAM_VERSION;
  }
  try {
    library->useGpu(localRank);
    library->properties();
  } catch (const GpuError& error) {
    return error.what();
  }
  opened = library;
  return "";
}

const CudaLibrary& cudaLibrary() { return *opened; }

}  // namespace loram
