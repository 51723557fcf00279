#include "transfer.h"

#include "context.h"

namespace loram {
namespace {

// An event is recorded anew for every wait: a wait keeps to what the event stood for when it was queued. Another thread may
// record between the two calls of a pair; the wait is then for later work of the same stream, which is right as well.
struct Transfers {
  Transfers() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&asked, &done}) check(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
  cudaStream_t stream;
  cudaEvent_t asked, done;
};

Transfers& transfers() {
  static Transfers& kept =
      *new Transfers;  // lives as long as the process: the driver may be gone before static objects are
  return kept;
}

void waitIn(cudaStream_t waiting, cudaEvent_t event, cudaStream_t before) {
  check(cudaEventRecord(event, before));
  check(cudaStreamWaitEvent(waiting, event, 0));
}

}  // namespace

void transfer(const void* source, void* target, size_t bytes) {
  enter("transfer");
  const Transfers& own = transfers();
  waitIn(own.stream, own.asked, stream());
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, own.stream));
}

void awaitTransfers() {
  enter("awaitTransfers");
  const Transfers& own = transfers();
  waitIn(stream(), own.done, own.stream);
}

}  // namespace loram
