#include "cudaLibrary.h"

#include <dlfcn.h>
#include <unistd.h>

namespace loram {

std::string cudaLibraryStatus(const std::string& path) {
  if (access(path.c_str(), R_OK) != 0) return "not built: there is no " + path;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::string("not loadable: ") + dlerror();
  using Version = const char* (*)();
  const auto version = reinterpret_cast<Version>(dlsym(library, "loramCudaVersion"));
  std::string status;
  if (!version) {
    status = "not a loram CUDA library: " + path;
  } else if (std::string(version()) != LORAM_VERSION) {
    status = std::string("built for loram ") + version() + ", this is " + LORAM_VERSION;
  }
  dlclose(library);
  return status;
}

}  // namespace loram
