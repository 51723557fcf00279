// What the addon finds in loram_cuda.so: memory functions, and every op of ops.h by name.
#include <mutex>

#include "context.h"
#include "nccl.h"
#include "storage.h"
#include "transfer.h"

namespace loram {
namespace {

std::mutex turn;

// Ops called from several JavaScript threads take turns: their scratch memory is a stack.
template <class Op>
void run(const Op& op) {
  const std::lock_guard lock(turn);
  enter(Op::name);
  cuda(op, stream());
  check(cudaGetLastError());
}

template <class... Op>
constexpr CudaTable<OpList<Op...>> tableOf(OpList<Op...>) {
  return {CudaEntry<Op>{run<Op>}...};
}

void synchronize() {
  enter("synchronize");
  check(cudaStreamSynchronize(stream()));
}

const CudaLibrary library{LORAM_VERSION, useGpu,         gpuProperties, gpuMemory,       allocateCuda,  allocatePinned,
                          transfer,      awaitTransfers, synchronize,   ncclCollectives, tableOf(Ops{})};

}  // namespace
}  // namespace loram

extern "C" __attribute__((visibility("default"))) const loram::CudaLibrary* loramCudaLibrary() {
  return &loram::library;
}
