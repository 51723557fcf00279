#include <algorithm>
#include <cmath>
#include <numbers>

#include "../../core/parallel.h"
#include "../../core/philox.h"
#include "../ops.h"

namespace loram {
namespace {

// Box and Muller 1958: two uniform numbers give two independent normal ones. 1 - u is in (0, 1], so its logarithm is
// finite.
void boxMuller(const uint32_t* words, double mean, double deviation, float* pair) {
  const double radius = std::sqrt(-2 * std::log(1 - static_cast<double>(uniform(words[0]))));
  const double angle = 2 * std::numbers::pi * uniform(words[1]);
  pair[0] = static_cast<float>(mean + deviation * radius * std::cos(angle));
  pair[1] = static_cast<float>(mean + deviation * radius * std::sin(angle));
}

}  // namespace

void cpu(const Random& op) {
  const int64_t n = op.x.elements();
  // Where low + u * (high - low) rounds up to high, the next float below keeps the interval half open.
  const float last = std::nextafter(op.high, op.low);
  const auto four = [&](int64_t i) {
    const Philox4 random = philox(op.seed, op.stream, i);
    float values[4];
    if (op.normal) {
      boxMuller(random.word, op.low, op.high, values);
      boxMuller(random.word + 2, op.low, op.high, values + 2);
    } else {
      for (int j = 0; j < 4; j++) values[j] = std::min(op.low + uniform(random.word[j]) * (op.high - op.low), last);
    }
    std::copy_n(values, std::min<int64_t>(4, n - 4 * i), op.x.as<float>() + 4 * i);
  };
  parallelFor((n + 3) / 4, four, 1024);
}

}  // namespace loram
