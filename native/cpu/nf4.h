#pragma once
#include <cstdint>

#include "../core/tensor.h"

namespace loram {

constexpr int nf4Block = 64, nf4NestedBlock = 256;

// The NF4 values (QLoRA, arXiv 2305.14314, appendix E) as bitsandbytes has them in float32; the code is the index.
inline constexpr float nf4CodeBook[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// The signed dynamic map of bitsandbytes (8-bit optimizers, arXiv 2110.02861): 256 values in ascending order.
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
