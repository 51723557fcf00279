#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace loram {

enum class Device { cpu, cuda };

// `count` pieces of `bytes` each, `pitch` bytes apart, from `offset` bytes into a storage. Neither number is 0.
struct Pieces {
  size_t offset, bytes, pitch, count;
};

// A block of device memory; tensors are views into it and keep it alive.
class Storage {
 public:
  virtual ~Storage() = default;
  // Copies from and to host memory, where pieces lie one after another. A download waits for the device.
  virtual void upload(const Pieces& target, const void* source) = 0;
  virtual void download(const Pieces& source, void* target) const = 0;
  virtual void fill(size_t offset, uint8_t value, size_t size) = 0;
  // Gives the memory back now; views into it must not be used any more.
  virtual void release() = 0;

  bool released = false;
  Device device = Device::cpu;
  void* data = nullptr;
  size_t bytes = 0;
  // Where the furthest view so far ended: of an arena, the peak that was really used.
  size_t highWater = 0;
};

// Zeroed host memory on a 64-byte boundary; pages that nothing touches take no physical memory.
// Throws std::bad_alloc when the system has none.
std::shared_ptr<Storage> allocateCpu(size_t bytes);

}  // namespace loram
