#include <cmath>
#include <vector>

#include "../../core/parallel.h"
#include "../../cpu/simd.h"
#include "../ops.h"
#include "adamFactors.h"

namespace loram {
namespace {

constexpr int64_t block = 16384;

LORAM_CLONES void adamW(int64_t n, float* p, const float* g, float* m, float* v, const AdamFactors& factors) {
  const AdamFactors f = factors;
  for (int64_t i = 0; i < n; i++) {
    m[i] = m[i] + f.takeFirst * (g[i] - m[i]);
    v[i] = v[i] * f.beta2 + f.takeSecond * g[i] * g[i];
    p[i] = p[i] * f.decay + f.stepSize * m[i] / (std::sqrt(v[i]) / f.rootCorrection + f.eps);
  }
}

LORAM_CLONES double sumOfSquares(int64_t n, const float* x) {
  return simd::sum(n, [&](int64_t j) { return static_cast<double>(x[j]) * x[j]; });
}

LORAM_CLONES void multiply(int64_t n, float* x, float factor) {
  for (int64_t j = 0; j < n; j++) x[j] *= factor;
}

LORAM_CLONES void keepZeros(int64_t n, const float* p, float* g) {
  for (int64_t i = 0; i < n; i++) g[i] = p[i] == 0 ? 0 : g[i];
}

}  // namespace

void cpu(const KeepZeros& op) {
  parallelRanges(op.grads.elements(), block, [&](int64_t begin, int64_t end) {
    keepZeros(end - begin, op.parameters.as<float>() + begin, op.grads.as<float>() + begin);
  });
}

void cpu(const AdamW& op) {
  const AdamFactors factors(op);
  parallelRanges(op.parameters.elements(), block, [&](int64_t begin, int64_t end) {
    adamW(end - begin, op.parameters.as<float>() + begin, op.grads.as<float>() + begin,
          op.firstMoment.as<float>() + begin, op.secondMoment.as<float>() + begin, factors);
  });
}

void cpu(const ClipGradNorm& op) {
  const int64_t n = op.grads.elements();
  float* grads = op.grads.as<float>();
  // Blocks of a fixed size: the sum does not depend on how threads share them.
  std::vector<double> squares((n + block - 1) / block);
  parallelFor(static_cast<int64_t>(squares.size()),
              [&](int64_t i) { squares[i] = sumOfSquares(std::min(block, n - i * block), grads + i * block); });
  double total = 0;
  for (const double square : squares) total += square;
  const float norm = static_cast<float>(std::sqrt(total));
  *op.norm.as<float>() = norm;
  const float factor = op.maxNorm / (norm + 1e-6f);
  if (op.maxNorm == 0 || factor >= 1) return;
  parallelRanges(n, block, [&](int64_t begin, int64_t end) { multiply(end - begin, grads + begin, factor); });
}

}  // namespace loram
