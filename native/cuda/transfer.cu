#include "transfer.h"

#include "../core/cudaLibrary.h"
#include "context.h"

namespace loram {
namespace {

// An event is recorded anew for every wait: a wait keeps to what the event stood for when it was queued. Another thread may
// record between the two calls of a pair; the wait is then for later work of the same stream, which is right as well.
struct Lane {
  Lane() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&asked, &done}) check(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
  cudaStream_t stream;
  cudaEvent_t asked, done;
};

const Lane& laneAt(int lane) {
  // Lives as long as the process: the driver may be gone before static objects are.
  static const Lane* const kept = new Lane[transferLanes];
  return kept[lane];
}

void waitIn(cudaStream_t waiting, cudaEvent_t event, cudaStream_t before) {
  check(cudaEventRecord(event, before));
  check(cudaStreamWaitEvent(waiting, event, 0));
}

}  // namespace

void transfer(const void* source, void* target, size_t bytes, int lane) {
  enter("transfer");
  const Lane& own = laneAt(lane);
  waitIn(own.stream, own.asked, stream());
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, own.stream));
}

void awaitTransfers(int lane) {
  enter("awaitTransfers");
  const Lane& own = laneAt(lane);
  waitIn(stream(), own.done, own.stream);
}

}  // namespace loram
