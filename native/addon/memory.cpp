#include "memory.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "../core/cudaLibrary.h"
#include "errors.h"

namespace loram {
namespace {

// Tells the garbage collector how much memory hangs on a small object.
void account(Napi::Env env, const Storage& storage, int64_t sign) {
  if (storage.released) return;
  Napi::MemoryManagement::AdjustExternalMemory(env, sign * static_cast<int64_t>(storage.bytes));
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
  return Memory::of(info.Env()).keep(info.Env(), std::move(storage));
}

// Calls copy(pieces, hostBytes) for what the values [begin, end) of a tensor, counted in bytes without padding, are in
// its memory: part of a row, whole rows, and part of another.
template <class Copy>
void eachPiece(const View& view, size_t begin, size_t end, uint8_t* host, Copy copy) {
  const Tensor& tensor = view.tensor;
  const size_t size = bytesPerElement(tensor.dtype), pitch = tensor.pitch * size;
  // Without padding all rows are one.
  const size_t row = tensor.pitch == tensor.columns() ? tensor.bytes() : tensor.columns() * size;
  while (begin < end) {
    const size_t column = begin % row, count = column == 0 ? std::max<size_t>(1, (end - begin) / row) : 1;
    const size_t bytes = std::min(row - column, end - begin);
    copy(Pieces{view.offset + begin / row * pitch + column, bytes, count == 1 ? bytes : pitch, count}, host);
    host += bytes * count;
    begin += bytes * count;
  }
}

// (byteOffset, bytes) of upload and download, and the tensor in the frame, whose end they must not pass.
template <class Copy>
void copyRange(const Napi::CallbackInfo& info, Copy copy) {
  const View view = Memory::of(info.Env()).view(info.Env());
  auto bytes = info[1].As<Napi::Uint8Array>();
  const size_t begin = sizeArgument(info[0]), end = begin + bytes.ByteLength();
  if (end < begin || end > static_cast<size_t>(view.tensor.elements() * bytesPerElement(view.tensor.dtype))) {
    throw Napi::RangeError::New(info.Env(), "a copy reaches past the end of its tensor");
  }
  typed(info.Env(), [&] {
    eachPiece(view, begin, end, bytes.Data(),
              [&](const Pieces& pieces, uint8_t* host) { copy(*view.storage, pieces, host); });
  });
}

void upload(const Napi::CallbackInfo& info) {
  copyRange(info, [](Storage& storage, const Pieces& pieces, const void* host) { storage.upload(pieces, host); });
}

void download(const Napi::CallbackInfo& info) {
  copyRange(info, [](const Storage& storage, const Pieces& pieces, void* host) { storage.download(pieces, host); });
}

// fill(byte): all of the tensor in the frame, and the padding between its rows.
void fill(const Napi::CallbackInfo& info) {
  const View view = Memory::of(info.Env()).view(info.Env());
  const auto value = static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value());
  typed(info.Env(), [&] { view.storage->fill(view.offset, value, view.tensor.bytes()); });
}

// The lane of a transfer, the only argument.
int laneOf(const Napi::CallbackInfo& info) {
  const int lane = info[0].As<Napi::Number>().Int32Value();
  if (lane < 0 || lane >= transferLanes) throw Napi::RangeError::New(info.Env(), "no such lane of transfers");
  return lane;
}

// transfer(lane): copies the first tensor in the frame over the second, padding included.
void transfer(const Napi::CallbackInfo& info) {
  const Memory& memory = Memory::of(info.Env());
  const View source = memory.view(info.Env()), target = memory.view(info.Env(), tensorFields);
  const int64_t bytes = source.tensor.bytes();
  if (bytes != target.tensor.bytes())
    throw Napi::RangeError::New(info.Env(), "a transfer between tensors of two sizes");
  if (source.storage->device == Device::cpu && target.storage->device == Device::cpu) {
    std::memcpy(target.tensor.data, source.tensor.data, bytes);
  } else {
    typed(info.Env(), [&] { cudaLibrary().transfer(source.tensor.data, target.tensor.data, bytes, laneOf(info)); });
  }
}

void awaitTransfers(const Napi::CallbackInfo& info) {
  typed(info.Env(), [&] { cudaLibrary().awaitTransfers(laneOf(info)); });
}

// release(slot): gives the memory back now; tensors that look into it cannot be used any more.
void release(const Napi::CallbackInfo& info) {
  Storage& storage = Memory::of(info.Env()).at(info.Env(), info[0].As<Napi::Number>().Int64Value());
  account(info.Env(), storage, -1);
  storage.release();
}

}  // namespace

Memory::Memory(Napi::Env env) : slots_(std::make_shared<Slots>()) {
  auto array = Napi::Float64Array::New(env, frameLength);
  frame = array.Data();
  array_ = Napi::Persistent(array);
}

Memory& Memory::of(Napi::Env env) { return *env.GetInstanceData<Memory>(); }

Napi::Object Memory::keep(Napi::Env env, std::shared_ptr<Storage> storage) {
  // Whatever goes first when a thread ends, the object or this: what the object needs is its own
  struct Kept {
    std::shared_ptr<Slots> slots;
    size_t slot;
  };
  account(env, *storage, 1);
  auto object = Napi::Object::New(env);
  const size_t slot = slots_->take(std::move(storage));
  object.Set("slot", static_cast<double>(slot));
  const auto giveBack = [](Napi::Env env, Kept* kept) {
    account(env, *kept->slots->storages[kept->slot], -1);
    kept->slots->giveBack(kept->slot);
    delete kept;
  };
  object.AddFinalizer(giveBack, new Kept{slots_, slot});
  return object;
}

Storage& Memory::at(Napi::Env env, int64_t slot) const {
  const auto& storages = slots_->storages;
  if (slot < 0 || slot >= static_cast<int64_t>(storages.size()) || !storages[slot]) {
    throw Napi::TypeError::New(env, "expected memory of this addon");
  }
  return *storages[slot];
}

View Memory::view(Napi::Env env, size_t field) const {
  const double* fields = frame + field;
  if (fields[0] == -1) return {};
  View view{&at(env, static_cast<int64_t>(fields[0])), static_cast<size_t>(fields[1]), {}};
  if (view.storage->released) throw Napi::Error::New(env, "the memory of this tensor was released");
  Tensor& tensor = view.tensor;
  tensor.dtype = static_cast<DType>(fields[2]);
  tensor.pitch = static_cast<int64_t>(fields[3]);
  tensor.rank = static_cast<int>(fields[4]);
  if (tensor.rank > maxRank) throw Napi::RangeError::New(env, "a tensor has at most 4 dimensions");
  for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = static_cast<int64_t>(fields[5 + i]);
  const bool isNegative =
      fields[1] < 0 || std::any_of(fields + 5, fields + 5 + tensor.rank, [](double n) { return n < 0; });
  if (isNegative || view.offset > view.storage->bytes ||
      static_cast<size_t>(tensor.bytes()) > view.storage->bytes - view.offset) {
    throw Napi::RangeError::New(env, "a tensor reaches past its memory");
  }
  tensor.data = static_cast<char*>(view.storage->data) + view.offset;
  return view;
}

size_t Memory::Slots::take(std::shared_ptr<Storage> storage) {
  if (free.empty()) {
    storages.push_back(std::move(storage));
    return storages.size() - 1;
  }
  const size_t slot = free.back();
  free.pop_back();
  storages[slot] = std::move(storage);
  return slot;
}

void Memory::Slots::giveBack(size_t slot) {
  storages[slot].reset();
  free.push_back(slot);
}

void exportMemory(Napi::Env env, Napi::Object exports) {
  auto* memory = new Memory(env);
  env.SetInstanceData(memory);
  exports.Set("frame", memory->array());
  exports.Set("allocate", Napi::Function::New<allocate>(env, "allocate"));
  exports.Set("upload", Napi::Function::New<upload>(env, "upload"));
  exports.Set("download", Napi::Function::New<download>(env, "download"));
  exports.Set("fill", Napi::Function::New<fill>(env, "fill"));
  exports.Set("transfer", Napi::Function::New<transfer>(env, "transfer"));
  exports.Set("awaitTransfers", Napi::Function::New<awaitTransfers>(env, "awaitTransfers"));
  exports.Set("release", Napi::Function::New<release>(env, "release"));
}

}  // namespace loram
