// Products on the GPU for other ops to use.
#pragma once
#include "operands.cuh"

namespace loram {

// What LoRA adds to a product: left [M, rank] by depth, right as b lies. None with rank 0.
struct LowRank {
  Bf16Matrix left = {}, right = {};
  int rank = 0;
};

// c = drop(alpha * (op(a) * op(b) + left * op(right))) + beta * c, with [M, depth] and [N, depth] operands lying as
// their orders say, by the fastest kernel for the shape and the GPU. Where beta is 1 and c bf16 the sum may be rounded
// twice.
void multiply(Order orderA, const Bf16Matrix& a, Order orderB, const Bf16Matrix& b, const LowRank& extra,
              const Output& c, int depth, cudaStream_t stream);

}  // namespace loram
