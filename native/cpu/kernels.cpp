#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace loram {
namespace {

struct InstructionSet {
  const char* name;
  bool supported;
  const Kernels* kernels;
};

const Kernels& choose() {
  const InstructionSet sets[] = {
#ifdef __x86_64__
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq"),
       &avx512Kernels},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2Kernels},
#endif
      {"generic", true, &genericKernels},
  };
  const char* wanted = std::getenv("LORAM_CPU");
  for (const auto& set : sets) {
    if (set.supported && (!wanted || std::string(wanted) == set.name)) return *set.kernels;
  }
  throw std::invalid_argument(std::string("LORAM_CPU=") + wanted + " is not an instruction set of this processor");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace loram
