// The border to JavaScript: every op of ops.h becomes a function of the addon's exports. No maths here.
#include <napi.h>

#include "../core/cudaLibrary.h"
#include "../core/parallel.h"
#include "../ops/ops.h"
#include "errors.h"
#include "memory.h"

namespace loram {
namespace {

// Reads the arguments of a call in order, and where the call runs: where its tensors are, which the wrapper has checked to
// be one place.
struct Arguments {
  const Napi::CallbackInfo& info;
  size_t next = 0;
  Device device = Device::cpu;

  void read(Tensor& tensor) {
    const Napi::Value value = info[next++];
    if (value.IsNull()) return;
    const TensorHandle& handle = tensorOf(value);
    tensor = handle.tensor;
    device = handle.storage->device;
  }
  void read(float& number) { number = info[next++].As<Napi::Number>().FloatValue(); }
  void read(double& number) { number = info[next++].As<Napi::Number>().DoubleValue(); }
  void read(int64_t& number) { number = info[next++].As<Napi::Number>().Int64Value(); }
  void read(bool& flag) { flag = info[next++].As<Napi::Boolean>().Value(); }
};

template <class Op>
Device read(const Napi::CallbackInfo& info, Op& op) {
  Arguments arguments{info};
  std::apply([&](auto&... field) { (arguments.read(field), ...); }, op.fields());
  return arguments.device;
}

template <class Op>
void call(const Napi::CallbackInfo& info) {
  Op op;
  if (read(info, op) == Device::cpu) return cpu(op);
  const CudaEntry<Op>& entry = cudaLibrary().ops;
  typed(info.Env(), [&] { entry.run(op); });
}

template <class Op>
void callOnHost(const Napi::CallbackInfo& info) {
  Op op;
  read(info, op);
  cpu(op);
}

template <class... Op, class... HostOp>
void exportOps(Napi::Env env, Napi::Object exports, OpList<Op...>, OpList<HostOp...>) {
  (exports.Set(Op::name, Napi::Function::New<call<Op>>(env, Op::name)), ...);
  (exports.Set(HostOp::name, Napi::Function::New<callOnHost<HostOp>>(env, HostOp::name)), ...);
}

Napi::Value threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), threadCount()); }

// openCuda(path): why the CUDA library at `path` cannot be used, as a sentence; "" when it can, from then on.
Napi::Value openCuda(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), openCudaLibrary(info[0].As<Napi::String>().Utf8Value()));
}

// What the CUDA library says of the GPU and of its memory, in bytes.
Napi::Value gpu(const Napi::CallbackInfo& info) {
  return typed(info.Env(), [&] {
    const GpuProperties properties = cudaLibrary().properties();
    const GpuMemory memory = cudaLibrary().memory();
    auto object = Napi::Object::New(info.Env());
    object.Set("name", properties.name);
    object.Set("computeCapability", std::to_string(properties.major) + "." + std::to_string(properties.minor));
    object.Set("multiprocessors", properties.multiprocessors);
    object.Set("driver", cudaVersion(properties.driver));
    object.Set("freeBytes", static_cast<double>(memory.free));
    object.Set("totalBytes", static_cast<double>(memory.total));
    object.Set("allocatedBytes", static_cast<double>(memory.allocated));
    object.Set("peakBytes", static_cast<double>(memory.peak));
    object.Set("scratchPeakBytes", static_cast<double>(memory.scratchPeak));
    return object;
  });
}

// Waits until the GPU has done all that was asked of it.
void synchronize(const Napi::CallbackInfo& info) {
  typed(info.Env(), [] { cudaLibrary().synchronize(); });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::String::New(env, LORAM_VERSION));
  exports.Set("threads", Napi::Function::New<threads>(env, "threads"));
  exports.Set("openCuda", Napi::Function::New<openCuda>(env, "openCuda"));
  exports.Set("gpu", Napi::Function::New<gpu>(env, "gpu"));
  exports.Set("synchronize", Napi::Function::New<synchronize>(env, "synchronize"));
  exportMemory(env, exports);
  exportOps(env, exports, Ops{}, HostOps{});
  return exports;
}

}  // namespace
}  // namespace loram

static Napi::Object initLoram(Napi::Env env, Napi::Object exports) { return loram::init(env, exports); }
NODE_API_MODULE(loram, initLoram)
