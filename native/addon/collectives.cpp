#include "collectives.h"

#include <algorithm>
#include <string>

#include "../core/cudaLibrary.h"
#include "errors.h"
#include "memory.h"

namespace loram {
namespace {

const Collectives& nccl() { return cudaLibrary().collectives; }

// The tensor that is number `i` in the frame.
Tensor tensor(Napi::Env env, size_t i = 0) { return Memory::of(env).view(env, i * tensorFields).tensor; }

// openNccl(path): its version, as "2.27.5"
Napi::Value openNccl(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  const int version = typed(info.Env(), [&] { return nccl().open(path); });
  const std::string text =
      std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
  return Napi::String::New(info.Env(), text);
}

Napi::Value ncclUniqueId(const Napi::CallbackInfo& info) {
  const NcclId id = typed(info.Env(), [] { return nccl().uniqueId(); });
  auto bytes = Napi::Uint8Array::New(info.Env(), id.bytes.size());
  std::copy(id.bytes.begin(), id.bytes.end(), bytes.Data());
  return bytes;
}

// ncclJoin(id, rank, size)
void ncclJoin(const Napi::CallbackInfo& info) {
  auto bytes = info[0].As<Napi::Uint8Array>();
  NcclId id;
  if (bytes.ByteLength() != id.bytes.size()) throw Napi::RangeError::New(info.Env(), "no id of NCCL's");
  std::copy_n(bytes.Data(), id.bytes.size(), id.bytes.begin());
  const int rank = info[1].As<Napi::Number>().Int32Value(), size = info[2].As<Napi::Number>().Int32Value();
  typed(info.Env(), [&] { nccl().join(id, rank, size); });
}

// allReduce(): of the tensor in the frame
void allReduce(const Napi::CallbackInfo& info) {
  const Tensor x = tensor(info.Env());
  typed(info.Env(), [&] { nccl().allReduce(x.data, x.elements()); });
}

// reduceScatter(): of the first tensor in the frame into the second
void reduceScatter(const Napi::CallbackInfo& info) {
  const Tensor whole = tensor(info.Env(), 0), part = tensor(info.Env(), 1);
  typed(info.Env(), [&] { nccl().reduceScatter(whole.data, part.data, part.elements()); });
}

// allGather(): of the first tensor in the frame into the second
void allGather(const Napi::CallbackInfo& info) {
  const Tensor part = tensor(info.Env(), 0), whole = tensor(info.Env(), 1);
  typed(info.Env(), [&] { nccl().allGather(part.data, whole.data, part.bytes()); });
}

void settle(const Napi::CallbackInfo& info) {
  typed(info.Env(), [] { nccl().settle(); });
}

void ncclAbort(const Napi::CallbackInfo&) { nccl().abort(); }

void ncclLeave(const Napi::CallbackInfo&) { nccl().leave(); }

}  // namespace

void exportCollectives(Napi::Env env, Napi::Object exports) {
  exports.Set("openNccl", Napi::Function::New<openNccl>(env, "openNccl"));
  exports.Set("ncclUniqueId", Napi::Function::New<ncclUniqueId>(env, "ncclUniqueId"));
  exports.Set("ncclJoin", Napi::Function::New<ncclJoin>(env, "ncclJoin"));
  exports.Set("allReduce", Napi::Function::New<allReduce>(env, "allReduce"));
  exports.Set("reduceScatter", Napi::Function::New<reduceScatter>(env, "reduceScatter"));
  exports.Set("allGather", Napi::Function::New<allGather>(env, "allGather"));
  exports.Set("settle", Napi::Function::New<settle>(env, "settle"));
  exports.Set("ncclAbort", Napi::Function::New<ncclAbort>(env, "ncclAbort"));
  exports.Set("ncclLeave", Napi::Function::New<ncclLeave>(env, "ncclLeave"));
}

}  // namespace loram
