// The border to JavaScript: every op of ops.h becomes a function of the addon's exports. No maths here.
#include <napi.h>

#include "../core/cudaLibrary.h"
#include "../core/parallel.h"
#include "../ops/ops.h"
#include "collectives.h"
#include "errors.h"
#include "memory.h"

namespace loram {
namespace {

constexpr size_t lengthOf(const Tensor&) { return tensorFields; }
template <class Scalar>
constexpr size_t lengthOf(const Scalar&) {
  return 1;
}

// Reads the fields of a call from the frame, in order, and where the call runs: where its tensors are, which the wrapper has
// checked to be one place.
struct Fields {
  Napi::Env env;
  const Memory& memory;
  size_t next = 0;
  Device device = Device::cpu;

  void read(Tensor& tensor) {
    const View view = memory.view(env, next);
    next += tensorFields;
    if (!view.storage) return;
    tensor = view.tensor;
    device = view.storage->device;
  }
  void read(bool& flag) { flag = memory.frame[next++] != 0; }
  template <class Number>
  void read(Number& number) {
    number = static_cast<Number>(memory.frame[next++]);
  }
};

// The only argument is how many numbers the fields are.
template <class Op>
Device read(const Napi::CallbackInfo& info, Op& op) {
  Fields fields{info.Env(), Memory::of(info.Env())};
  std::apply(
      [&](auto&... field) {
        const size_t length = (lengthOf(field) + ...);
        if (length > frameLength || info[0].As<Napi::Number>().Int64Value() != static_cast<int64_t>(length)) {
          throw Napi::TypeError::New(info.Env(), std::string(Op::name) + ": not its fields");
        }
        (fields.read(field), ...);
      },
      op.fields());
  return fields.device;
}

template <class Op>
void call(const Napi::CallbackInfo& info) {
  Op op;
  if (read(info, op) == Device::cpu) return typed(info.Env(), [&] { cpu(op); });
  const CudaEntry<Op>& entry = cudaLibrary().ops;
  typed(info.Env(), [&] { entry.run(op); });
}

template <class Op>
void callOnHost(const Napi::CallbackInfo& info) {
  Op op;
  if (read(info, op) != Device::cpu)
    throw Napi::TypeError::New(info.Env(), std::string(Op::name) + ": only on the CPU");
  typed(info.Env(), [&] { cpu(op); });
}

template <class... Op, class... HostOp>
void exportOps(Napi::Env env, Napi::Object exports, OpList<Op...>, OpList<HostOp...>) {
  (exports.Set(Op::name, Napi::Function::New<call<Op>>(env, Op::name)), ...);
  (exports.Set(HostOp::name, Napi::Function::New<callOnHost<HostOp>>(env, HostOp::name)), ...);
}

Napi::Value threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), threadCount()); }

// openCuda(path, localRank): why the CUDA library at `path` cannot be used, as a sentence; "" when it can, from then on.
Napi::Value openCuda(const Napi::CallbackInfo& info) {
  const int localRank = info[1].As<Napi::Number>().Int32Value();
  return Napi::String::New(info.Env(), openCudaLibrary(info[0].As<Napi::String>().Utf8Value(), localRank));
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
  exportCollectives(env, exports);
  exportOps(env, exports, Ops{}, HostOps{});
  return exports;
}

}  // namespace
}  // namespace loram

static Napi::Object initLoram(Napi::Env env, Napi::Object exports) { return loram::init(env, exports); }
NODE_API_MODULE(loram, initLoram)
