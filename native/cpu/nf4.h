#pragma once
#include <cstdint>

#include "../core/nf4.h"
#include "../core/tensor.h"

namespace loram {

// The 256 values of the signed dynamic map.
const float* dynamicMap();

// A quantised matrix, flattened. absmax is one float a block, or one code a block when nestedAbsmax is there.
struct Nf4View {
  const uint8_t* packed;
  const void* absmax;
  const float* nestedAbsmax;
  float nestedOffset;

  Nf4View(const Tensor& packed, const Tensor& absmax, const Tensor& nestedAbsmax, const Tensor& nestedOffset);

  float scale(int64_t block) const;
  // The elements first .. first + count - 1 of the flattened matrix.
  void decode(int64_t first, int64_t count, float* target) const;
};

}  // namespace loram
