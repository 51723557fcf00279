#pragma once
#include "../core/philox.h"
#include "mma.cuh"

namespace loram {

// Keeps element i of a tensor where uniform(philox(seed, stream, i / 4)[i % 4]) >= probability.
struct Dropout {
  uint64_t seed = 0, stream = 0;
  float probability = 0;

  // Bit j says whether element index + j is kept, for j < count.
  template <int count>
  __device__ uint32_t kept(int64_t index) const {
    const int skip = static_cast<int>(index % 4);
    uint32_t bits = 0;
#pragma unroll 1
    for (int group = 0; 4 * group < skip + count; group++) {
      const Philox4 random = philox(seed, stream, index / 4 + group);
#pragma unroll
      for (int i = 0; i < 4; i++) bits |= static_cast<uint32_t>(uniform(random.word[i]) >= probability) << (4 * group + i);
    }
    return bits >> skip;
  }
  __device__ float scale() const { return 1 / (1 - probability); }
};

}  // namespace loram
