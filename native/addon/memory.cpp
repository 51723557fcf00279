#include "memory.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "../core/cudaLibrary.h"
#include "errors.h"

namespace loram {
namespace {

constexpr napi_type_tag storageTag = {0x9a5c3d2f1e804b67, 0xb1f7c0de5a3e4d11};
constexpr napi_type_tag tensorTag = {0x4c21f6e87d9a4b03, 0x8e5d1b7a3f6c4e22};

struct StorageHandle {
  std::shared_ptr<Storage> storage;
};

// Tells the garbage collector how much memory hangs on a small handle.
void account(Napi::Env env, const StorageHandle& handle, int64_t sign) {
  if (handle.storage->released) return;
  Napi::MemoryManagement::AdjustExternalMemory(env, sign * static_cast<int64_t>(handle.storage->bytes));
}
void account(Napi::Env, const TensorHandle&, int64_t) {}

template <class T>
Napi::External<T> wrap(Napi::Env env, T handle, const napi_type_tag& tag) {
  account(env, handle, 1);
  auto external = Napi::External<T>::New(env, new T(std::move(handle)), [](Napi::Env env, T* owned) {
    account(env, *owned, -1);
    delete owned;
  });
  external.TypeTag(&tag);
  return external;
}

template <class T>
T& unwrap(const Napi::Value& value, const napi_type_tag& tag, const char* expected) {
  if (!value.IsExternal() || !value.As<Napi::External<T>>().CheckTypeTag(&tag)) {
    throw Napi::TypeError::New(value.Env(), std::string("expected a ") + expected + " of this addon");
  }
  return *value.As<Napi::External<T>>().Data();
}

StorageHandle& storageOf(const Napi::Value& value) {
  auto& handle = unwrap<StorageHandle>(value, storageTag, "storage");
  if (handle.storage->released) throw Napi::Error::New(value.Env(), "this memory was released");
  return handle;
}

TensorHandle& handleOf(const Napi::Value& value) {
  auto& handle = unwrap<TensorHandle>(value, tensorTag, "tensor");
  if (handle.storage->released) throw Napi::Error::New(value.Env(), "the memory of this tensor was released");
  return handle;
}

size_t sizeArgument(const Napi::Value& value) { return static_cast<size_t>(value.As<Napi::Number>().Int64Value()); }

std::shared_ptr<Storage> allocateIn(const std::string& place, size_t bytes) {
  if (place == "cuda") return cudaLibrary().allocate(bytes);
  if (place == "pinned") return cudaLibrary().allocatePinned(bytes);
  return allocateCpu(bytes);
}

// allocate(bytes, place)
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const size_t bytes = sizeArgument(info[0]);
  const std::string place = info[1].As<Napi::String>().Utf8Value();
  auto storage = typed(info.Env(), [&] { return allocateIn(place, bytes); });
  return wrap(info.Env(), StorageHandle{std::move(storage)}, storageTag);
}

// view(storage, byteOffset, dtype, pitch, ...shape)
Napi::Value view(const Napi::CallbackInfo& info) {
  auto& storage = storageOf(info[0]).storage;
  TensorHandle handle{storage, sizeArgument(info[1]), {}};
  Tensor& tensor = handle.tensor;
  tensor.dtype = static_cast<DType>(info[2].As<Napi::Number>().Int32Value());
  tensor.pitch = info[3].As<Napi::Number>().Int64Value();
  tensor.rank = static_cast<int>(info.Length()) - 4;
  if (tensor.rank > maxRank) throw Napi::RangeError::New(info.Env(), "a tensor has at most 4 dimensions");
  for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = info[i + 4].As<Napi::Number>().Int64Value();
  const size_t end = handle.offset + static_cast<size_t>(tensor.bytes());
  if (end > storage->bytes) throw Napi::RangeError::New(info.Env(), "a view reaches past the end of its memory");
  tensor.data = static_cast<char*>(storage->data) + handle.offset;
  return wrap(info.Env(), std::move(handle), tensorTag);
}

// Calls copy(pieces, hostBytes) for what the values [begin, end) of a tensor, counted in bytes without padding, are in
// its memory: part of a row, whole rows, and part of another.
template <class Copy>
void eachPiece(const TensorHandle& handle, size_t begin, size_t end, uint8_t* host, Copy copy) {
  const Tensor& tensor = handle.tensor;
  const size_t size = bytesPerElement(tensor.dtype), pitch = tensor.pitch * size;
  // Without padding all rows are one.
  const size_t row = tensor.pitch == tensor.columns() ? tensor.bytes() : tensor.columns() * size;
  while (begin < end) {
    const size_t column = begin % row, count = column == 0 ? std::max<size_t>(1, (end - begin) / row) : 1;
    const size_t bytes = std::min(row - column, end - begin);
    copy(Pieces{handle.offset + begin / row * pitch + column, bytes, count == 1 ? bytes : pitch, count}, host);
    host += bytes * count;
    begin += bytes * count;
  }
}

// (tensor, byteOffset, bytes) of upload and download, checked against the tensor's end.
template <class Copy>
void copyRange(const Napi::CallbackInfo& info, Copy copy) {
  const TensorHandle& handle = handleOf(info[0]);
  auto bytes = info[2].As<Napi::Uint8Array>();
  const size_t begin = sizeArgument(info[1]), end = begin + bytes.ByteLength();
  if (end > static_cast<size_t>(handle.tensor.elements() * bytesPerElement(handle.tensor.dtype))) {
    throw Napi::RangeError::New(info.Env(), "a copy reaches past the end of its tensor");
  }
  typed(info.Env(), [&] { eachPiece(handle, begin, end, bytes.Data(), copy); });
}

void upload(const Napi::CallbackInfo& info) {
  Storage& storage = *handleOf(info[0]).storage;
  copyRange(info, [&](const Pieces& pieces, const void* host) { storage.upload(pieces, host); });
}

void download(const Napi::CallbackInfo& info) {
  const Storage& storage = *handleOf(info[0]).storage;
  copyRange(info, [&](const Pieces& pieces, void* host) { storage.download(pieces, host); });
}

// fill(tensor, byte)
void fill(const Napi::CallbackInfo& info) {
  auto& handle = handleOf(info[0]);
  const auto value = static_cast<uint8_t>(info[1].As<Napi::Number>().Uint32Value());
  typed(info.Env(), [&] { handle.storage->fill(handle.offset, value, static_cast<size_t>(handle.tensor.bytes())); });
}

// transfer(source, target): copies a whole tensor, padding included.
void transfer(const Napi::CallbackInfo& info) {
  const TensorHandle &source = handleOf(info[0]), &target = handleOf(info[1]);
  const int64_t bytes = source.tensor.bytes();
  if (bytes != target.tensor.bytes())
    throw Napi::RangeError::New(info.Env(), "a transfer between tensors of two sizes");
  if (source.storage->device == Device::cpu && target.storage->device == Device::cpu) {
    std::memcpy(target.tensor.data, source.tensor.data, bytes);
  } else {
    typed(info.Env(), [&] { cudaLibrary().transfer(source.tensor.data, target.tensor.data, bytes); });
  }
}

void awaitTransfers(const Napi::CallbackInfo& info) {
  typed(info.Env(), [] { cudaLibrary().awaitTransfers(); });
}

// release(storage): gives the memory back now; tensors that look into it cannot be used any more.
void release(const Napi::CallbackInfo& info) {
  const StorageHandle& handle = unwrap<StorageHandle>(info[0], storageTag, "storage");
  account(info.Env(), handle, -1);
  handle.storage->release();
}

}  // namespace

const TensorHandle& tensorOf(const Napi::Value& value) { return handleOf(value); }

void exportMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("allocate", Napi::Function::New<allocate>(env, "allocate"));
  exports.Set("view", Napi::Function::New<view>(env, "view"));
  exports.Set("upload", Napi::Function::New<upload>(env, "upload"));
  exports.Set("download", Napi::Function::New<download>(env, "download"));
  exports.Set("fill", Napi::Function::New<fill>(env, "fill"));
  exports.Set("transfer", Napi::Function::New<transfer>(env, "transfer"));
  exports.Set("awaitTransfers", Napi::Function::New<awaitTransfers>(env, "awaitTransfers"));
  exports.Set("release", Napi::Function::New<release>(env, "release"));
}

}  // namespace loram
