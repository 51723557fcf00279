#include "storage.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "context.h"
#include "scratch.h"

namespace loram {
namespace {

std::atomic<size_t> allocated, peak;

// Throws std::bad_alloc where the system has no memory that it can pin.
void* pinnedMemory(size_t bytes) {
  void* memory;
  const cudaError_t status = cudaMallocHost(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  check(status);
  return memory;
}

// Copies `count` pieces of `bytes`. A single one may be longer than a pitch can be, which is 2 GiB.
void copyPieces(void* target, size_t targetPitch, const void* source, size_t sourcePitch, size_t bytes, size_t count,
                cudaMemcpyKind kind) {
  check(count == 1 ? cudaMemcpyAsync(target, source, bytes, kind, stream())
                   : cudaMemcpy2DAsync(target, targetPitch, source, sourcePitch, bytes, count, kind, stream()));
}

// Pinned host memory that uploads go through: the caller may change its data at once, while the copy to the GPU waits for
// its turn in the stream. Two halves, so that one fills while the other is copied.
class Staging {
 public:
  static constexpr size_t half = 4 << 20;

  // Room for `bytes`, at most a half. Waits only where the GPU is a whole half behind.
  char* take(size_t bytes) {
    if (!memory_) create();
    if (used_ + bytes > half) {
      check(cudaEventRecord(copied_[current_], stream()));
      current_ = 1 - current_;
      check(cudaEventSynchronize(copied_[current_]));
      used_ = 0;
    }
    char* room = memory_ + current_ * half + used_;
    used_ += bytes;
    return room;
  }

  std::mutex mutex;

 private:
  void create() {
    for (auto& event : copied_) {  // of an earlier try, which failed, there may be some
      if (!event) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    memory_ = static_cast<char*>(pinnedMemory(2 * half));
  }

  char* memory_ = nullptr;
  cudaEvent_t copied_[2] = {};
  int current_ = 0;
  size_t used_ = 0;
};

Staging& staging() {
  static Staging& kept =
      *new Staging;  // lives as long as the process: the driver may be gone before static objects are
  return kept;
}

class CudaStorage final : public Storage {
 public:
  // After the other constructor has run, the destructor does too where this one throws.
  explicit CudaStorage(size_t size) : CudaStorage() {
    bytes = size;
    if (size == 0) return;
    const size_t whole = (size + 15) / 16 * 16;  // kernels read 16 bytes at a time, the last ones too
    checkAllocation(cudaMalloc(&data, whole), whole);
    allocated += size;
    peak = std::max<size_t>(peak, allocated);
    check(cudaMemsetAsync(data, 0, whole, stream()));
  }
  CudaStorage(const CudaStorage&) = delete;
  CudaStorage& operator=(const CudaStorage&) = delete;
  ~CudaStorage() override { CudaStorage::release(); }

  void release() override {
    if (std::exchange(released, true) || !data) return;
    cudaFree(data);  // waits for what still uses it
    allocated -= bytes;
  }

  void upload(const Pieces& target, const void* source) override {
    enter("upload");
    const std::lock_guard lock(staging().mutex);
    const char* from = static_cast<const char*>(source);
    const size_t group = std::max<size_t>(1, Staging::half / target.bytes);
    for (size_t done = 0; done < target.count; done += group) {
      const size_t count = std::min(group, target.count - done);
      // Pieces longer than a half go one by one, in parts
      for (size_t begin = 0; begin < target.bytes; begin += Staging::half) {
        const size_t part = std::min(Staging::half, target.bytes - begin);
        stage({target.offset + done * target.pitch + begin, part, target.pitch, count},
              from + done * target.bytes + begin);
      }
    }
  }

  void download(const Pieces& source, void* target) const override {
    enter("download");
    copyPieces(target, source.bytes, at(source.offset), source.pitch, source.bytes, source.count,
               cudaMemcpyDeviceToHost);
    check(cudaStreamSynchronize(stream()));
  }

  void fill(size_t offset, uint8_t value, size_t size) override {
    enter("fill");
    if (size) check(cudaMemsetAsync(at(offset), value, size, stream()));
  }

 private:
  CudaStorage() { device = Device::cuda; }

  char* at(size_t offset) const { return static_cast<char*>(data) + offset; }

  // Copies pieces that are together at most half the staging memory.
  void stage(const Pieces& target, const char* source) {
    const size_t size = target.bytes * target.count;
    char* room = staging().take(size);
    std::memcpy(room, source, size);
    copyPieces(at(target.offset), target.pitch, room, target.bytes, target.bytes, target.count, cudaMemcpyHostToDevice);
  }
};

class PinnedStorage final : public HostStorage {
 public:
  explicit PinnedStorage(size_t size) {
    bytes = size;
    if (size > 0) data = pinnedMemory(size);
  }
  PinnedStorage(const PinnedStorage&) = delete;
  PinnedStorage& operator=(const PinnedStorage&) = delete;
  ~PinnedStorage() override { PinnedStorage::release(); }

  void release() override {
    if (std::exchange(released, true) || !data) return;
    cudaDeviceSynchronize();  // a transfer may be under way
    cudaFreeHost(data);
  }
};

}  // namespace

std::shared_ptr<Storage> allocateCuda(size_t bytes) {
  enter("allocate");
  return std::make_shared<CudaStorage>(bytes);
}

std::shared_ptr<Storage> allocatePinned(size_t bytes) {
  enter("allocatePinned");
  return std::make_shared<PinnedStorage>(bytes);
}

GpuMemory gpuMemory() {
  enter("memory");
  GpuMemory memory{0, 0, allocated, peak, scratchPeak()};
  check(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

}  // namespace loram
