// The border to JavaScript: every op of ops.h becomes a function of the addon's exports. No maths here.
#include <napi.h>

#include "../core/cudaLibrary.h"
#include "../core/parallel.h"
#include "../ops/ops.h"
#include "memory.h"

namespace loram {
namespace {

void decode(const Napi::Value& value, Tensor& tensor) {
  if (!value.IsNull()) tensor = tensorOf(value);
}
void decode(const Napi::Value& value, float& number) { number = value.As<Napi::Number>().FloatValue(); }
void decode(const Napi::Value& value, double& number) { number = value.As<Napi::Number>().DoubleValue(); }
void decode(const Napi::Value& value, int64_t& number) { number = value.As<Napi::Number>().Int64Value(); }
void decode(const Napi::Value& value, bool& flag) { flag = value.As<Napi::Boolean>().Value(); }

template <class Op>
void call(const Napi::CallbackInfo& info) {
  Op op;
  size_t i = 0;
  std::apply([&](auto&... field) { (decode(info[i++], field), ...); }, op.fields());
  cpu(op);
}

template <class... Op>
void exportOps(Napi::Env env, Napi::Object exports, OpList<Op...>) {
  (exports.Set(Op::name, Napi::Function::New<call<Op>>(env, Op::name)), ...);
}

Napi::Value threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), threadCount()); }

// cudaStatus(path): why the CUDA library at `path` cannot be used, as a sentence; "" when it can.
Napi::Value cudaStatus(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cudaLibraryStatus(info[0].As<Napi::String>().Utf8Value()));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::String::New(env, LORAM_VERSION));
  exports.Set("threads", Napi::Function::New<threads>(env, "threads"));
  exports.Set("cudaStatus", Napi::Function::New<cudaStatus>(env, "cudaStatus"));
  exportMemory(env, exports);
  exportOps(env, exports, Ops{});
  return exports;
}

}  // namespace
}  // namespace loram

static Napi::Object initLoram(Napi::Env env, Napi::Object exports) { return loram::init(env, exports); }
NODE_API_MODULE(loram, initLoram)
