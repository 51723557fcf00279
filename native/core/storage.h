#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
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
};

// A block of host memory.
class HostStorage : public Storage {
 public:
  void upload(const Pieces& target, const void* source) override {
    for (size_t i = 0; i < target.count; i++) {
      std::memcpy(at(target.offset + i * target.pitch), static_cast<const char*>(source) + i * target.bytes,
                  target.bytes);
    }
  }
  void download(const Pieces& source, void* target) const override {
    for (size_t i = 0; i < source.count; i++) {
      std::memcpy(static_cast<char*>(target) + i * source.bytes, at(source.offset + i * source.pitch), source.bytes);
    }
  }
  void fill(size_t offset, uint8_t value, size_t size) override { std::memset(at(offset), value, size); }

 private:
  char* at(size_t offset) const { return static_cast<char*>(data) + offset; }
};

// Zeroed host memory on a 64-byte boundary; pages that nothing touches take no physical memory.
// Throws std::bad_alloc when the system has none.
std::shared_ptr<Storage> allocateCpu(size_t bytes);

}  // namespace loram
