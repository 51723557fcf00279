#pragma once
#include <napi.h>

#include <memory>

#include "../core/storage.h"
#include "../core/tensor.h"

namespace loram {

// What a tensor's JavaScript handle points to. Handles carry a type tag, so a foreign value is an error, not a crash.
struct TensorHandle {
  std::shared_ptr<Storage> storage;
  size_t offset;
  Tensor tensor;
};

// The tensor behind a handle; throws a JavaScript error for anything else, and for memory that was released.
const TensorHandle& tensorOf(const Napi::Value& value);

// Adds allocate, view, upload, download, fill, transfer, awaitTransfers and release to the addon's exports.
void exportMemory(Napi::Env env, Napi::Object exports);

}  // namespace loram
