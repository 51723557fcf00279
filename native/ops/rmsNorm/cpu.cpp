#include <algorithm>
#include <cmath>

#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

LORAM_CLONES void forwardRow(int64_t dim, const float* x, const float* weight, float* y, float* rstd, float eps) {
  const double squares = simd::sum(dim, [&](int64_t j) { return static_cast<double>(x[j]) * x[j]; });
  const float r = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(dim) + eps));
  for (int64_t j = 0; j < dim; j++) y[j] = x[j] * r * weight[j];
  *rstd = r;
}

LORAM_CLONES void backwardRow(int64_t dim, const float* dy, const float* x, const float* weight, float rstd,
                              float* dx) {
  const double dot = simd::sum(dim, [&](int64_t j) { return static_cast<double>(dy[j] * weight[j]) * (x[j] * rstd); });
  const float mean = static_cast<float>(dot / static_cast<double>(dim));
  for (int64_t j = 0; j < dim; j++) dx[j] += rstd * (dy[j] * weight[j] - x[j] * rstd * mean);
}

}  // namespace

void cpu(const RmsNorm& op) {
  const int64_t dim = op.weight.elements();
  const float *x = op.x.as<float>(), *weight = op.weight.as<float>();
  float *y = op.y.as<float>(), *rstd = op.rstd.as<float>();
  float* copy = op.copy ? op.copy.as<float>() : nullptr;
  const auto row = [&](int64_t i) {
    forwardRow(dim, x + i * dim, weight, y + i * dim, rstd + i, op.eps);
    if (copy) std::copy_n(x + i * dim, dim, copy + i * dim);
  };
  parallelFor(op.rstd.elements(), row, rowGrain(dim));
}

void cpu(const RmsNormBackward& op) {
  const int64_t rows = op.rstd.elements(), dim = op.weight.elements();
  const float *dy = op.dy.as<float>(), *x = op.x.as<float>(), *weight = op.weight.as<float>(),
              *rstd = op.rstd.as<float>();
  float* dx = op.dx.as<float>();
  const auto row = [&](int64_t i) { backwardRow(dim, dy + i * dim, x + i * dim, weight, rstd[i], dx + i * dim); };
  parallelFor(rows, row, rowGrain(dim));
  if (!op.dweight) return;
  addColumnSums(rows, dim, op.dweight.as<float>(), [&](int64_t i, int64_t j) {
    return static_cast<double>(dy[i * dim + j]) * (x[i * dim + j] * rstd[i]);
  });
}

}  // namespace loram
