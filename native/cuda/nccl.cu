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
Comm comm = nullptr;
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

void join(const NcclId& id, int rank, int size) {
  enter("join");
  aborted = false;
  checkNccl(nccl.commInitRank(&comm, size, id, rank));
}

// Calls `collective` with the stream, in which it comes after all that was queued in stream() so far.
template <class Collective>
void queue(const char* name, Collective collective) {
  enter(name);
  if (aborted) throw NcclError("was aborted");
  check(cudaEventRecord(own().asked, stream()));
  check(cudaStreamWaitEvent(own().stream, own().asked, 0));
  checkNccl(collective(own().stream));
}

void allReduce(void* data, size_t count) {
  queue("allReduce", [=](cudaStream_t in) { return nccl.allReduce(data, data, count, float32, sum, comm, in); });
}

void reduceScatter(const void* whole, void* part, size_t count) {
  queue("reduceScatter",
        [=](cudaStream_t in) { return nccl.reduceScatter(whole, part, count, float32, sum, comm, in); });
}

void allGather(const void* part, void* whole, size_t bytes) {
  queue("allGather", [=](cudaStream_t in) { return nccl.allGather(part, whole, bytes, uint8, comm, in); });
}

// The kernels of a collective whose other side is gone spin for ever, so this asks instead of sleeping in the driver.
void settle() {
  enter("settle");
  constexpr int spins = 1000;
  for (int i = 0;; i++) {
    if (aborted) throw NcclError("was aborted");
    const cudaError_t status = cudaStreamQuery(own().stream);
    if (status != cudaErrorNotReady) return check(status);
    cudaGetLastError();  // takes it off the thread, where the next op would find it
    Result error = success;
    checkNccl(nccl.commGetAsyncError(comm, &error));
    checkNccl(error);
    if (i >= spins) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// From any thread: ends the collectives that are under way, here alone. In a thread of its own, for it may wait for a GPU
// that hangs.
void abort() {
  if (aborted.exchange(true) || !comm) return;
  std::thread([hanging = comm] { nccl.commAbort(hanging); }).detach();
}

void leave() {
  if (comm && !aborted) nccl.commDestroy(comm);
  comm = nullptr;
}

}  // namespace

const Collectives ncclCollectives{open, uniqueId, join, allReduce, reduceScatter, allGather, settle, abort, leave};

}  // namespace loram
