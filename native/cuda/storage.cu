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
    for (auto& event : copied_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    check(cudaMallocHost(&memory_, 2 * half));
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
  explicit CudaStorage(size_t size) {
    device = Device::cuda;
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
    if (target.count == 1) {  // one run of any length
      for (size_t done = 0; done < target.bytes; done += Staging::half) {
        const size_t part = std::min(Staging::half, target.bytes - done);
        stage({target.offset + done, part, part, 1}, from + done);
      }
    } else {
      const size_t group = Staging::half / target.bytes;
      for (size_t done = 0; done < target.count; done += group) {
        const size_t part = std::min(group, target.count - done);
        stage({target.offset + done * target.pitch, target.bytes, target.pitch, part}, from + done * target.bytes);
      }
    }
  }

  void download(const Pieces& source, void* target) const override {
    enter("download");
    check(cudaMemcpy2DAsync(target, source.bytes, at(source.offset), source.pitch, source.bytes, source.count,
                            cudaMemcpyDeviceToHost, stream()));
    check(cudaStreamSynchronize(stream()));
  }

  void fill(size_t offset, uint8_t value, size_t size) override {
    enter("fill");
    if (size) check(cudaMemsetAsync(at(offset), value, size, stream()));
  }

 private:
  char* at(size_t offset) const { return static_cast<char*>(data) + offset; }

  // Copies pieces that are together at most half the staging memory.
  void stage(const Pieces& target, const char* source) {
    const size_t size = target.bytes * target.count;
    char* room = staging().take(size);
    std::memcpy(room, source, size);
    check(cudaMemcpy2DAsync(at(target.offset), target.pitch, room, target.bytes, target.bytes, target.count,
                            cudaMemcpyHostToDevice, stream()));
  }
};

class PinnedStorage final : public HostStorage {
 public:
  explicit PinnedStorage(size_t size) {
    bytes = size;
    if (size == 0) return;
    const cudaError_t status = cudaMallocHost(&data, size);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check(status);
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
