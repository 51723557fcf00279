#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

constexpr int64_t grain = 16384;

LORAM_CLONES void forward(int64_t n, const float* gate, const float* up, float* y) {
  for (int64_t i = 0; i < n; i++) y[i] = gate[i] / (1 + simd::exp(-gate[i])) * up[i];
}

LORAM_CLONES void backward(int64_t n, const float* dy, const float* gate, const float* up, float* dgate, float* dup) {
  // Gradients may lie where gate and up lie, but never at another index.
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const float g = gate[i], u = up[i], sigmoid = 1 / (1 + simd::exp(-g));
    dgate[i] = dy[i] * u * sigmoid * (1 + g * (1 - sigmoid));
    dup[i] = dy[i] * g * sigmoid;
  }
}

}  // namespace

void cpu(const Swiglu& op) {
  const float *gate = op.gate.as<float>(), *up = op.up.as<float>();
  float* y = op.y.as<float>();
  parallelRanges(op.y.elements(), grain,
                 [&](int64_t begin, int64_t end) { forward(end - begin, gate + begin, up + begin, y + begin); });
}

void cpu(const SwigluBackward& op) {
  const float *dy = op.dy.as<float>(), *gate = op.gate.as<float>(), *up = op.up.as<float>();
  float *dgate = op.dgate.as<float>(), *dup = op.dup.as<float>();
  parallelRanges(op.dy.elements(), grain, [&](int64_t begin, int64_t end) {
    backward(end - begin, dy + begin, gate + begin, up + begin, dgate + begin, dup + begin);
  });
}

}  // namespace loram
