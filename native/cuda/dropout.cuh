#pragma once
#include "../core/philox.h"
#include "mma.cuh"

namespace loram {

// Keeps element i of a tensor where uniform(philox(seed, stream, i / 4)[i % 4]) >= probability.
struct Dropout {
  uint64_t seed = 0, stream = 0;
  float probability = 0;

  // Bit j says whether element index + j is kept, for j < 8.
  __device__ uint32_t kept(int64_t index) const {
    const int64_t counter = index / 4;
    const int skip = static_cast<int>(index % 4);
    uint32_t bits = keptOf(counter) | keptOf(counter + 1) << 4;
    if (skip != 0) bits |= keptOf(counter + 2) << 8;
    return bits >> skip;
  }
  __device__ float scale() const { return 1 / (1 - probability); }

 private:
  __device__ uint32_t keptOf(int64_t counter) const {
    const Philox4 random = philox(seed, stream, counter);
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) bits |= static_cast<uint32_t>(uniform(random.word[i]) >= probability) << i;
    return bits;
  }
};

}  // namespace loram
