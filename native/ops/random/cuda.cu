// The CPU's numbers: the same words for each element, and its roundings, so products and sums stay unfused.
#include <cmath>
#include <numbers>

#include "../../core/philox.h"
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

__device__ void boxMuller(const uint32_t* words, double mean, double deviation, float* pair) {
  const double radius = sqrt(-2 * log(1 - static_cast<double>(uniform(words[0]))));
  double sine, cosine;
  sincos(2 * std::numbers::pi * uniform(words[1]), &sine, &cosine);
  pair[0] = static_cast<float>(mean + deviation * radius * cosine);
  pair[1] = static_cast<float>(mean + deviation * radius * sine);
}

}  // namespace

void cuda(const Random& op, cudaStream_t stream) {
  constexpr int width = 4;
  float* x = op.x.as<float>();
  const bool normal = op.normal;
  const uint64_t seed = op.seed, number = op.stream;
  const float low = op.low, high = op.high, range = high - low;
  // Where low + u * (high - low) rounds up to high, the next float below keeps the interval half open.
  const float last = std::nextafter(high, low);
  elementwise<width>(1, op.x.elements(), stream, [=] __device__(int64_t, int64_t at, int64_t left) {
    const Philox4 random = philox(seed, number, at / width);
    Vector<float, width> values;
    if (normal) {
      boxMuller(random.word, low, high, values.value);
      boxMuller(random.word + 2, low, high, values.value + 2);
    } else {
#pragma unroll
      for (int i = 0; i < width; i++) {
        values[i] = fminf(__fadd_rn(low, __fmul_rn(uniform(random.word[i]), range)), last);
      }
    }
    store(x + at, left, values);
  });
}

}  // namespace loram
