#include <cmath>
#include <vector>

#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

// Sum of exp(x - largest) in double; with `keep` the exponentials take the place of x.
LORAM_CLONES double sumOfExponentials(int64_t n, float* x, float largest, bool keep) {
  constexpr int64_t width = 256;
  float buffer[width];
  double total = 0;
  for (int64_t first = 0; first < n; first += width) {
    const int64_t count = std::min(width, n - first);
    float* e = keep ? x + first : buffer;
#pragma GCC ivdep
    for (int64_t j = 0; j < count; j++) e[j] = simd::exp(x[first + j] - largest);
    total += simd::sum(count, [&](int64_t j) { return static_cast<double>(e[j]); });
  }
  return total;
}

LORAM_CLONES float largestOf(int64_t n, const float* x) { return simd::max(x, n); }

LORAM_CLONES void multiply(int64_t n, float* x, float factor) {
  for (int64_t j = 0; j < n; j++) x[j] *= factor;
}

// Returns -log p[target]; with `backward` the logits become scale * (p - onehot(target)).
double row(int64_t vocab, float* logits, int32_t target, float scale, bool backward) {
  const float largest = largestOf(vocab, logits);
  const double score = static_cast<double>(logits[target]) - largest;
  const double total = sumOfExponentials(vocab, logits, largest, backward);
  if (backward) {
    multiply(vocab, logits, static_cast<float>(scale / total));
    // p - 1 in double: near a probability of 1 the difference is all there is.
    logits[target] = static_cast<float>(scale * (std::exp(score) / total - 1));
  }
  return std::log(total) - score;
}

}  // namespace

void cpu(const CrossEntropy& op) {
  const int64_t rows = op.logits.rows(), vocab = op.logits.columns();
  std::vector<double> losses(rows);
  const auto body = [&](int64_t i) {
    losses[i] = row(vocab, op.logits.as<float>() + i * vocab, op.targets.as<int32_t>()[i], op.scale, op.backward);
  };
  parallelFor(rows, body, rowGrain(vocab));
  double sum = 0;
  for (int64_t i = 0; i < rows; i++) {
    sum += losses[i];
    if (op.tokenLoss) op.tokenLoss.as<float>()[i] = static_cast<float>(losses[i]);
  }
  *op.loss.as<float>() += static_cast<float>(op.scale * sum);
}

}  // namespace loram
