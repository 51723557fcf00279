#include "nf4.h"

#include <algorithm>

#include "kernels.h"

namespace loram {

const float* dynamicMap() {
  static constexpr Table<256> map = makeDynamicMap();
  return map.values;
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
