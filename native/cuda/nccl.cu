// Collectives by libnccl.so.2, which is opened at run time: who trains on one GPU does not need it. The declarations are our
// own, of the part of NCCL's C interface that has been the same since version 2.13.
#include "nccl.h"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "../core/gpuError.h"
#include "context.h"

namespace loram {
namespace {

using Comm = struct ncclComm*;
enum Result : int { success = 0, inProgress = 7 };
enum DataType : int { uint8 = 1, float32 = 7 };
enum Reduction : int { sum = 0 };

struct Nccl {
  Result (*getVersion)(int*);
  Result (*getUniqueId)(NcclId*);
  Result (*commInitRank)(Comm*, int size, NcclId, int rank);
  Result (*commDestroy)(Comm);
  Result (*commAbort)(Comm);
  Result (*commGetAsyncError)(Comm, Result*);
  const char* (*getErrorString)(Result);
  const char* (*getLastError)(Comm);
  Result (*allReduce)(const void*, void*, size_t, DataType, Reduction, Comm, cudaStream_t);
  Result (*reduceScatter)(const void*, void*, size_t, DataType, Reduction, Comm, cudaStream_t);
  Result (*allGather)(const void*, void*, size_t, DataType, Comm, cudaStream_t);
};

Nccl nccl;
// Null before `join`, and after `leave` or `abort`: they may come at once, and whichever takes it releases it.
std::atomic<Comm> comm = nullptr;
std::atomic<bool> aborted;

// Its own stream, so that what is reduced does not wait for what is computed afterwards.
struct Stream {
  Stream() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&asked, cudaEventDisableTiming));
  }
  cudaStream_t stream;
  cudaEvent_t asked;
};

Stream& own() {
  static Stream& kept = *new Stream;  // lives as long as the process: the driver may be gone before static objects are
  return kept;
}

void checkNccl(Result result) {
  if (result == success || result == inProgress) return;
  throw NcclError(std::string(nccl.getErrorString(result)) + ": " + nccl.getLastError(nullptr));
}

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) throw NcclError(std::string("the library has no ") + name);
}

int open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw NcclError(dlerror());
  find(library, "ncclGetVersion", nccl.getVersion);
  find(library, "ncclGetUniqueId", nccl.getUniqueId);
  find(library, "ncclCommInitRank", nccl.commInitRank);
  find(library, "ncclCommDestroy", nccl.commDestroy);
  find(library, "ncclCommAbort", nccl.commAbort);
  find(library, "ncclCommGetAsyncError", nccl.commGetAsyncError);
  find(library, "ncclGetErrorString", nccl.getErrorString);
  find(library, "ncclGetLastError", nccl.getLastError);
  find(library, "ncclAllReduce", nccl.allReduce);
  find(library, "ncclReduceScatter", nccl.reduceScatter);
  find(library, "ncclAllGather", nccl.allGather);
  int version;
  checkNccl(nccl.getVersion(&version));
  return version;
}

NcclId uniqueId() {
  NcclId id;
  checkNccl(nccl.getUniqueId(&id));
  return id;
}

// From any thread: ends the collectives that are under way, here alone. In a thread of its own, for it may wait for a GPU
// that hangs.
void abort() {
  aborted = true;
  if (const Comm hanging = comm.exchange(nullptr)) std::thread([hanging] { nccl.commAbort(hanging); }).detach();
}

void join(const NcclId& id, int rank, int size) {
  enter("join");
  aborted = false;
  Comm made;
  checkNccl(nccl.commInitRank(&made, size, id, rank));
  comm = made;
  if (aborted) abort();  // which found nothing to end while this waited
}

Comm joined() {
  const Comm current = comm;
  if (!current) throw NcclError("was aborted");
  return current;
}

// Calls `collective` with the communicator and the stream, in which it comes after all that was queued in stream() so far.
template <class Collective>
void queue(const char* name, Collective collective) {
  enter(name);
  const Comm with = joined();
  check(cudaEventRecord(own().asked, stream()));
  check(cudaStreamWaitEvent(own().stream, own().asked, 0));
  checkNccl(collective(with, own().stream));
}

void allReduce(void* data, size_t count) {
  queue("allReduce",
        [=](Comm with, cudaStream_t in) { return nccl.allReduce(data, data, count, float32, sum, with, in); });
}

void reduceScatter(const void* whole, void* part, size_t count) {
  queue("reduceScatter",
        [=](Comm with, cudaStream_t in) { return nccl.reduceScatter(whole, part, count, float32, sum, with, in); });
}

void allGather(const void* part, void* whole, size_t bytes) {
  queue("allGather", [=](Comm with, cudaStream_t in) { return nccl.allGather(part, whole, bytes, uint8, with, in); });
}

// The kernels of a collective whose other side is gone spin for ever, so this asks instead of sleeping in the driver.
void settle() {
  enter("settle");
  constexpr int spins = 1000;
  for (int i = 0;; i++) {
    const Comm with = joined();
    const cudaError_t status = cudaStreamQuery(own().stream);
    if (status != cudaErrorNotReady) return check(status);
    cudaGetLastError();  // takes it off the thread, where the next op would find it
    Result error = success;
    checkNccl(nccl.commGetAsyncError(with, &error));
    checkNccl(error);
    if (i >= spins) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

void leave() {
  if (const Comm left = comm.exchange(nullptr)) nccl.commDestroy(left);
}

}  // namespace

const Collectives ncclCollectives{open, uniqueId, join, allReduce, reduceScatter, allGather, settle, abort, leave};

}  // namespace loram
