#include "nf4.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels.h"

namespace loram {
namespace {

// For each exponent e = 0..6, 2^e values between 0.1 and 1 times 10^(e - 6) with both signs; also 0 and 1. The values
// are the means of neighbours in an even division of [0.1, 1], rounded where torch.linspace on the CPU rounds: from the
// nearer end, in one fused step. So the map is, bit for bit, the one in checkpoints.
std::array<float, 256> makeDynamicMap() {
  std::array<float, 256> map{0, 1};
  size_t n = 2;
  double power = 1e-6;
  for (int e = 0; e < 7; e++, power *= 10) {
    const int intervals = 1 << e;
    const float step = (1.0f - 0.1f) / intervals;
    const auto point = [&](int i) {
      return i < (intervals + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                                     : std::fma(step, static_cast<float>(i - intervals), 1.0f);
    };
    for (int i = 0; i < intervals; i++) {
      const float value = (point(i) + point(i + 1)) / 2 * static_cast<float>(power);
      map[n++] = value;
      map[n++] = -value;
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const float* dynamicMap() {
  static const std::array<float, 256> map = makeDynamicMap();
  return map.data();
}

Nf4View::Nf4View(const Tensor& packed, const Tensor& absmax, const Tensor& nestedAbsmax, const Tensor& nestedOffset)
    : packed(packed.as<uint8_t>()),
      absmax(absmax.data),
      nestedAbsmax(nestedAbsmax.as<float>()),
      nestedOffset(nestedOffset ? *nestedOffset.as<float>() : 0) {}

float Nf4View::scale(int64_t block) const {
  if (!nestedAbsmax) return static_cast<const float*>(absmax)[block];
  return dynamicMap()[static_cast<const uint8_t*>(absmax)[block]] * nestedAbsmax[block / nf4NestedBlock] + nestedOffset;
}

void Nf4View::decode(int64_t first, int64_t count, float* target) const {
  const auto& k = kernels();
  for (int64_t end = first + count; first < end;) {
    const int64_t stop = std::min(end, (first / nf4Block + 1) * nf4Block);
    const float s = scale(first / nf4Block);
    if (first % 2) {
      *target++ = nf4CodeBook[packed[first / 2] & 15] * s;
      first++;
    }
    k.decodeNf4(packed + first / 2, stop - first, s, target);
    target += stop - first;
    first = stop;
  }
}

}  // namespace loram
