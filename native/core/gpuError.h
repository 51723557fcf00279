#pragma once
#include <cstddef>
#include <stdexcept>
#include <string>

namespace loram {

// What the CUDA library throws; the border makes it a typed JavaScript error.
struct GpuError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct NcclError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct GpuOutOfMemory : GpuError {
  GpuOutOfMemory(size_t wanted, size_t available)
      : GpuError("out of memory: " + std::to_string(wanted) + " bytes wanted, " + std::to_string(available) + " free"),
        asked(wanted),
        free(available) {}

  size_t asked, free;
};

}  // namespace loram
