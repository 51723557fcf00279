#pragma once
#include <cstdint>
#include <variant>

#include "../core/dtype.h"
#include "nf4.h"

namespace loram {

// Operands as they lie in memory: row-major, rows `stride` values apart. `transposed`: the operand is the transpose.
struct FloatMatrix {
  const float* data;
  int64_t stride;
  bool transposed = false;
};

struct GemmRight {
  std::variant<const float*, const Bf16*, Nf4View> data;
  int64_t stride;
  bool transposed = false;

  // The block of `rows` x `columns` at (row, column): in place if floats are there, else widened into `scratch`.
  FloatMatrix read(int64_t row, int64_t rows, int64_t column, int64_t columns, float* scratch) const;
};

struct GemmOutput {
  float* data;
  int64_t stride;
};

// c[m, n] = alpha * a[m, k] * b[k, n] + beta * c in fp32; beta 0 does not read c.
//
// An element of c is the sum over k in one order that depends on k and on the path alone: fused multiply-adds over
// blocks of k, each block added to c. So the result does not depend on the number of threads or on where a row stands.
// With at most eight rows and b transposed (decoding) a path that does not pack b sums in another order.
struct GemmProblem {
  int64_t m, n, k;
  FloatMatrix a;
  GemmRight b;
  GemmOutput c;
  float alpha = 1, beta = 0;
};

void gemm(const GemmProblem& problem);

}  // namespace loram
