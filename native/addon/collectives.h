#pragma once
#include <napi.h>

namespace loram {

// Adds openNccl, ncclUniqueId, ncclJoin, allReduce, reduceScatter, allGather, settle, ncclAbort and ncclLeave to the addon's
// exports: cudaLibrary().collectives, on the tensors in the frame.
void exportCollectives(Napi::Env env, Napi::Object exports);

}  // namespace loram
