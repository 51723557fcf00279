#pragma once
#include "../core/cudaLibrary.h"

namespace loram {

// What loram_cuda.so exports of an NCCL that it opens at run time; all of it throws NcclError.
extern const Collectives ncclCollectives;

}  // namespace loram
