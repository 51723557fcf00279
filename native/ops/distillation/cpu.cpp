#include <cmath>
#include <vector>

#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

// Of one row, logits less their largest: sums of exponentials, at temperature 1 and T, of the student (c, q) and of the
// teacher at T (p), and the sum over p's of the difference of both logits.
struct Sums {
  double c, q, p, difference;
};

LORAM_CLONES Sums sumsOf(int64_t n, const float* s, float largestS, const float* t, float largestT, float sharpness) {
  Sums sums;
  const auto student = [&](int64_t j) { return (s[j] - largestS) * sharpness; };
  const auto teacher = [&](int64_t j) { return (t[j] - largestT) * sharpness; };
  sums.c = simd::sum(n, [&](int64_t j) { return static_cast<double>(simd::exp(s[j] - largestS)); });
  sums.q = simd::sum(n, [&](int64_t j) { return static_cast<double>(simd::exp(student(j))); });
  sums.p = simd::sum(n, [&](int64_t j) { return static_cast<double>(simd::exp(teacher(j))); });
  sums.difference =
      simd::sum(n, [&](int64_t j) { return static_cast<double>(simd::exp(teacher(j))) * (teacher(j) - student(j)); });
  return sums;
}

LORAM_CLONES void gradient(int64_t n, float* s, float largestS, const float* t, float largestT, float sharpness,
                           float c, float q, float p) {
  for (int64_t j = 0; j < n; j++) {
    s[j] = c * simd::exp(s[j] - largestS) + q * simd::exp((s[j] - largestS) * sharpness) -
           p * simd::exp((t[j] - largestT) * sharpness);
  }
}

double row(const Distillation& op, int64_t i) {
  const int64_t vocab = op.logits.columns();
  float* s = op.logits.as<float>() + i * vocab;
  const float* t = op.teacher.as<float>() + i * vocab;
  const int32_t target = op.targets.as<int32_t>()[i];
  const float largestS = simd::max(s, vocab), largestT = simd::max(t, vocab), sharpness = 1 / op.temperature;
  const Sums sums = sumsOf(vocab, s, largestS, t, largestT, sharpness);
  const double crossEntropy = std::log(sums.c) - (s[target] - largestS);
  const double divergence = sums.difference / sums.p - std::log(sums.p) + std::log(sums.q);
  const double plain = 1.0 - op.weight, taught = static_cast<double>(op.weight) * op.temperature;
  if (op.backward) {
    gradient(vocab, s, largestS, t, largestT, sharpness, static_cast<float>(op.scale * plain / sums.c),
             static_cast<float>(op.scale * taught / sums.q), static_cast<float>(op.scale * taught / sums.p));
    s[target] -= static_cast<float>(op.scale * plain);
  }
  return plain * crossEntropy + taught * op.temperature * divergence;
}

}  // namespace

void cpu(const Distillation& op) {
  std::vector<double> losses(op.logits.rows());
  parallelFor(op.logits.rows(), [&](int64_t i) { losses[i] = row(op, i); }, rowGrain(op.logits.columns()));
  double sum = 0;
  for (const double loss : losses) sum += loss;
  *op.loss.as<float>() += static_cast<float>(op.scale * sum);
}

}  // namespace loram
