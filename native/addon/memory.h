#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "../core/storage.h"
#include "../core/tensor.h"

namespace loram {

// A call's fields come as numbers in the frame, an array that JavaScript and this share: to take each argument through
// Node-API, and to make a handle for each tensor, costs more than many ops. src/native/frame.ts writes it.
constexpr size_t frameLength = 256;

// What a tensor takes of it: the slot of its memory, the offset there in bytes, dtype, pitch, rank, and four sizes. A slot of
// -1 stands for a tensor that is absent.
constexpr size_t tensorFields = 5 + maxRank;

struct View {
  Storage* storage = nullptr;
  size_t offset = 0;
  Tensor tensor;
};

// The memory that a thread's JavaScript objects keep, each in a slot, and the thread's frame.
class Memory {
 public:
  explicit Memory(Napi::Env env);
  static Memory& of(Napi::Env env);

  // An object { slot }, which keeps the memory.
  Napi::Object keep(Napi::Env env, std::shared_ptr<Storage> storage);
  // Throws a JavaScript error where there is none.
  Storage& at(Napi::Env env, int64_t slot) const;
  // The tensor from `field` on in the frame. Throws a JavaScript error where it does not lie in memory, or that was released.
  View view(Napi::Env env, size_t field = 0) const;

  Napi::Float64Array array() const { return array_.Value(); }

  const double* frame;

 private:
  struct Slots {
    size_t take(std::shared_ptr<Storage> storage);
    void giveBack(size_t slot);

    std::vector<std::shared_ptr<Storage>> storages;
    std::vector<size_t> free;
  };

  Napi::Reference<Napi::Float64Array> array_;
  std::shared_ptr<Slots> slots_;
};

// Adds frame, allocate, upload, download, fill, transfer, awaitTransfers and release to the addon's exports.
void exportMemory(Napi::Env env, Napi::Object exports);

}  // namespace loram
