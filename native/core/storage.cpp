#include "storage.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <utility>

namespace loram {
namespace {

// A mapping costs a system call and whole pages; below this size the heap is better.
constexpr size_t mappedFrom = 1 << 20;

class CpuStorage final : public HostStorage {
 public:
  explicit CpuStorage(size_t size) {
    bytes = size;
    if (size >= mappedFrom) {
      data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (data == MAP_FAILED) throw std::bad_alloc();
      madvise(data, size, MADV_HUGEPAGE);
    } else {
      data = ::operator new(size + 1, std::align_val_t(64));
      std::memset(data, 0, size);
    }
  }
  CpuStorage(const CpuStorage&) = delete;
  CpuStorage& operator=(const CpuStorage&) = delete;
  ~CpuStorage() override { CpuStorage::release(); }

  void release() override {
    if (std::exchange(released, true)) return;
    if (bytes >= mappedFrom) {
      munmap(data, bytes);
    } else {
      ::operator delete(data, std::align_val_t(64));
    }
  }
};

}  // namespace

std::shared_ptr<Storage> allocateCpu(size_t bytes) { return std::make_shared<CpuStorage>(bytes); }

}  // namespace loram
