#include <cmath>

#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

// score(i, j) in double: the product of two floats is exact there.
template <class Score>
void addSums(const Importance& op, Score score) {
  const int64_t rows = op.w.rows(), columns = op.w.columns();
  if (op.rowSums) {
    float* sums = op.rowSums.as<float>();
    const auto row = [&](int64_t i) {
      sums[i] += static_cast<float>(simd::sum(columns, [&](int64_t j) { return score(i, j); }));
    };
    parallelFor(rows, row, rowGrain(columns));
  }
  if (op.columnSums) addColumnSums(rows, columns, op.columnSums.as<float>(), score);
}

}  // namespace

void cpu(const Importance& op) {
  const int64_t columns = op.w.columns();
  forDtype(op.w.dtype, [&](auto type) {
    const auto* w = op.w.as<decltype(type)>();
    const float* grad = op.grad.as<float>();
    const auto score = [&](int64_t i, int64_t j) {
      const double weight = static_cast<float>(w[i * columns + j]);
      return grad ? weight * grad[i * columns + j] : weight;
    };
    if (op.squared)
      addSums(op, [&](int64_t i, int64_t j) { return score(i, j) * score(i, j); });
    else
      addSums(op, [&](int64_t i, int64_t j) { return std::abs(score(i, j)); });
  });
}

}  // namespace loram
