#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

LORAM_CLONES void addTo(int64_t dim, float* y, const float* bias) {
  for (int64_t j = 0; j < dim; j++) y[j] += bias[j];
}

}  // namespace

void cpu(const AddBias& op) {
  const int64_t dim = op.y.columns();
  float* y = op.y.as<float>();
  const float* bias = op.bias.as<float>();
  parallelFor(op.y.rows(), [&](int64_t i) { addTo(dim, y + i * dim, bias); }, rowGrain(dim));
}

void cpu(const AddBiasBackward& op) {
  const int64_t dim = op.dy.columns();
  const float* dy = op.dy.as<float>();
  addColumnSums(op.dy.rows(), dim, op.dbias.as<float>(),
                [&](int64_t i, int64_t j) { return static_cast<double>(dy[i * dim + j]); });
}

}  // namespace loram
