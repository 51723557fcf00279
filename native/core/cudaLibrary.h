#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "../ops/ops.h"
#include "storage.h"

namespace loram {

struct GpuProperties {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  int driver;  // the newest CUDA version that the driver runs, 1000 * major + 10 * minor
};

inline std::string cudaVersion(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Bytes of the GPU's memory: for all processes, what this library holds for tensors now and at most so far, and the most
// that ops took for partial results.
struct GpuMemory {
  size_t free, total, allocated, peak, scratchPeak;
};

template <class Op>
struct CudaEntry {
  void (*run)(const Op&);
};

// One entry for every op: an op without a kernel does not link.
template <class List>
struct CudaTable;
template <class... Op>
struct CudaTable<OpList<Op...>> : CudaEntry<Op>... {};

// What lets the ranks of one run find each other, of the size that NCCL gives it.
struct NcclId {
  std::array<char, 128> bytes;
};

// What several processes compute together, by NCCL: each calls the same functions in the same order. What they queue begins
// after all work queued so far, and runs beside what is queued from now on, until `settle` returns.
struct Collectives {
  int (*open)(const std::string& path);  // its version, 10000 * major + 100 * minor + patch
  NcclId (*uniqueId)();
  void (*join)(const NcclId&, int rank, int size);  // waits for all others
  void (*allReduce)(void* data, size_t count);      // sums f32 in place
  // Sums `whole`, which has a part of `count` f32 for every rank; each gets its own.
  void (*reduceScatter)(const void* whole, void* part, size_t count);
  void (*allGather)(const void* part, void* whole, size_t bytes);  // `whole` has a part of `bytes` for every rank
  void (*settle)();                                                // waits until all that was queued is done
  void (*abort)();                                                 // from another thread: `settle` throws
  void (*leave)();
};

constexpr int transferLanes = 3;  // lanes in src/tensor/hostMemory.ts

// What loram_cuda.so exports. Everything in it throws GpuError. Work is queued on one stream, in the order of the calls;
// only a download waits for it.
struct CudaLibrary {
  const char* version;  // comes first: with another version the rest may lie elsewhere
  // Which GPU all threads use: of several that are visible the one with this number, else the only one.
  void (*useGpu)(int localRank);
  GpuProperties (*properties)();
  GpuMemory (*memory)();
  std::shared_ptr<Storage> (*allocate)(size_t bytes);  // zeroed
  // Host memory that transfers read and write. Throws std::bad_alloc when the system has none that it can pin.
  std::shared_ptr<Storage> (*allocatePinned)(size_t bytes);
  // Copies between GPU and pinned memory after all work queued so far, and beside what is queued from now on; in one of
  // `transferLanes` lanes, each of which keeps its order.
  void (*transfer)(const void* source, void* target, size_t bytes, int lane);
  // Work queued from now on waits for the lane's transfers so far.
  void (*awaitTransfers)(int lane);
  void (*synchronize)();
  Collectives collectives;
  CudaTable<Ops> ops;
};

// The CUDA ops live in a library of their own, opened at run time, so that one addon serves machines with and without a
// GPU. Opens the one at `path` and says why it cannot be used: not there, not loadable, of another version, or no GPU that
// it has kernels for. "" when it can.
std::string openCudaLibrary(const std::string& path, int localRank);

// The library that was opened.
const CudaLibrary& cudaLibrary();

}  // namespace loram
