#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace loram {

// A block of device memory; tensors are views into it and keep it alive.
class Storage {
 public:
  virtual ~Storage() = default;
  virtual void upload(size_t offset, const void* source, size_t bytes) = 0;
  virtual void download(size_t offset, void* target, size_t bytes) const = 0;
  virtual void fill(size_t offset, uint8_t value, size_t bytes) = 0;

  void* data = nullptr;
  size_t bytes = 0;
  // Where the furthest view so far ended: of an arena, the peak that was really used.
  size_t highWater = 0;
};

// Zeroed host memory on a 64-byte boundary; pages that nothing touches take no physical memory.
// Throws std::bad_alloc when the system has none.
std::shared_ptr<Storage> allocateCpu(size_t bytes);

}  // namespace loram
