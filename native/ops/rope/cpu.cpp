#include <cmath>
#include <vector>

#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

LORAM_CLONES void rotateHead(int64_t half, float* x, const float* cosine, const float* sine) {
  for (int64_t j = 0; j < half; j++) {
    const float x1 = x[j], x2 = x[j + half];
    x[j] = x1 * cosine[j] - x2 * sine[j];
    x[j + half] = x2 * cosine[j] + x1 * sine[j];
  }
}

void rotateRow(const Tensor& x, int64_t row, const std::vector<float>& cosine, const std::vector<float>& sine) {
  const auto half = static_cast<int64_t>(cosine.size()), width = x.columns();
  float* values = x.as<float>() + row * width;
  for (int64_t head = 0; head < width; head += 2 * half) rotateHead(half, values + head, cosine.data(), sine.data());
}

}  // namespace

void cpu(const Rope& op) {
  const int64_t half = op.inverseFrequencies.elements();
  const float* inverseFrequencies = op.inverseFrequencies.as<float>();
  parallelRanges(op.q.rows(), rowGrain(op.q.columns() + op.k.columns()), [&](int64_t begin, int64_t end) {
    std::vector<float> cosine(half), sine(half);
    for (int64_t i = begin; i < end; i++) {
      const double position = op.positions.as<int32_t>()[i];
      for (int64_t j = 0; j < half; j++) {
        const double angle = position * inverseFrequencies[j];
        cosine[j] = static_cast<float>(std::cos(angle));
        sine[j] = static_cast<float>(op.inverse ? -std::sin(angle) : std::sin(angle));
      }
      rotateRow(op.q, i, cosine, sine);
      rotateRow(op.k, i, cosine, sine);
    }
  });
}

}  // namespace loram
