#include <algorithm>
#include <cmath>
#include <vector>

#include "../../core/parallel.h"
#include "../../cpu/gemm.h"
#include "../../cpu/simd.h"
#include "../ops.h"
#include "../sparse/leastOf.h"

namespace loram {
namespace {

// A square part of a larger matrix; rows begin `stride` values apart.
struct Square {
  int64_t n;
  float* data;
  int64_t stride;
  float* row(int64_t i) const { return data + i * stride; }
};

constexpr int64_t leaf = 64;

// Rows of the upper half, whole leaves.
int64_t upperHalf(int64_t n) { return (n / 2 + leaf - 1) / leaf * leaf; }

// Values of scratch that invertFactor takes, about n^2 / 3.
int64_t scratchOf(int64_t n) {
  if (n <= leaf) return 0;
  const int64_t n1 = upperHalf(n), n2 = n - n1;
  return std::max(scratchOf(n1), n1 * n2 + scratchOf(n2));
}

// L^-1 for a = L L^T in place, in double, with zeros above the diagonal. False if a is not positive definite.
bool invertSmallFactor(const Square& a) {
  double l[leaf][leaf], inverse[leaf][leaf] = {};
  for (int64_t i = 0; i < a.n; i++) {
    for (int64_t j = 0; j <= i; j++) {
      double sum = a.row(i)[j];
      for (int64_t k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
      if (i == j && !(sum > 0)) return false;
      l[i][j] = i == j ? std::sqrt(sum) : sum / l[j][j];
    }
  }
  for (int64_t j = 0; j < a.n; j++) {
    for (int64_t i = j; i < a.n; i++) {
      double sum = i == j;
      for (int64_t k = j; k < i; k++) sum -= l[i][k] * inverse[k][j];
      inverse[i][j] = sum / l[i][i];
    }
  }
  for (int64_t i = 0; i < a.n; i++) std::copy_n(inverse[i], a.n, a.row(i));
  return true;
}

// The same for any size, by halves, so that all work lies in large products: with a = [a11 ; a21 a22],
//   X11 = L11^-1,  L21 = a21 X11^T,  X22 from a22 - L21 L21^T,  X21 = -X22 L21 X11.
// Only the lower half of `a` is read.
bool invertFactor(const Square& a, float* scratch) {
  if (a.n <= leaf) return invertSmallFactor(a);
  const int64_t n1 = upperHalf(a.n), n2 = a.n - n1;
  const Square first{n1, a.data, a.stride}, second{n2, a.row(n1) + n1, a.stride};
  float *below = a.row(n1), *panel = scratch;
  if (!invertFactor(first, scratch)) return false;
  gemm({n2, n1, n1, {below, a.stride}, {first.data, a.stride, true}, {panel, n1}});
  gemm({n2, n2, n1, {panel, n1}, {panel, n1, true}, {second.data, a.stride}, -1, 1});
  if (!invertFactor(second, scratch + n2 * n1)) return false;
  gemm({n2, n1, n1, {panel, n1}, {first.data, a.stride}, {below, a.stride}});
  gemm({n2, n1, n2, {second.data, a.stride}, {below, a.stride}, {panel, n1}, -1});
  for (int64_t i = 0; i < n2; i++) std::copy_n(panel + i * n1, n1, below + i * a.stride);
  for (int64_t i = 0; i < n1; i++) std::fill_n(a.row(i) + n1, n2, 0.0f);
  return true;
}

// Cuts along a row's block of columns: what a cut weight contributed is moved to the columns on its right, by row j of
// `u`, and e[j] = w[j] / u[j, j] to what is right of the block. `isCut` says what goes, and may ask for weights as they are.
template <class IsCut>
[[gnu::always_inline]] inline void cutRow(int64_t count, float* w, const float* u, int64_t stride, float* e,
                                          IsCut isCut) {
  for (int64_t j = 0; j < count; j++) {
    const float* factors = u + j * stride;
    e[j] = 0;
    if (!isCut(j)) continue;
    const float error = w[j] / factors[j];
    w[j] = 0;
    e[j] = error;
    for (int64_t k = j + 1; k < count; k++) w[k] -= error * factors[k];
  }
}

inline float scoreOf(float w, float diagonal) { return w * w / (diagonal * diagonal); }

LORAM_CLONES void cutRowByThreshold(int64_t count, float* w, const float* u, int64_t stride, float* e,
                                    const float* scores, float threshold) {
  cutRow(count, w, u, stride, e, [&](int64_t j) { return scores[j] <= threshold; });
}

LORAM_CLONES void cutRowByGroups(int64_t count, float* w, const float* u, int64_t stride, float* e, int64_t n,
                                 int64_t m) {
  LeastOf least(0, 0, [](int64_t) { return 0.0f; });
  cutRow(count, w, u, stride, e, [&](int64_t j) {
    if (j % m == 0) least = LeastOf(n, m, [&](int64_t k) { return scoreOf(w[j + k], u[(j + k) * (stride + 1)]); });
    return least.has(j % m);
  });
}

}  // namespace

void cpu(const InverseFactor& op) {
  const int64_t n = op.h.columns(), last = n * n - 1;
  const float* h = op.h.as<float>();
  float* u = op.u.as<float>();
  const auto diagonal = [&](int64_t i) { return h[i * (n + 1)] == 0 ? 1.0f : h[i * (n + 1)]; };
  const float damping = static_cast<float>(op.damping * simd::sum(n, diagonal) / n);
  // U is L^-1 of H read backwards, itself read backwards: H = R R^T with R = U^-1 upper triangular.
  parallelFor(n, [&](int64_t i) { std::reverse_copy(h + i * n, h + (i + 1) * n, u + last - i * n - n + 1); });
  for (int64_t i = 0; i < n; i++) u[last - i * (n + 1)] = diagonal(i) + damping;
  std::vector<float> scratch(scratchOf(n));
  *op.succeeded.as<int32_t>() = invertFactor({n, u, n}, scratch.data());
  std::reverse(u, u + n * n);
}

void cpu(const SparseGpt& op) {
  const int64_t rows = op.w.rows(), columns = op.w.columns();
  float* w = op.w.as<float>();
  const float *u = op.u.as<float>(), *h = op.h.as<float>();
  parallelFor(rows, [&](int64_t i) {
    for (int64_t j = 0; j < columns; j++) w[i * columns + j] = h[j * (columns + 1)] == 0 ? 0 : w[i * columns + j];
  });
  std::vector<float> errors(rows * op.block), scores(op.m ? 0 : rows * op.block), sorted;
  for (int64_t begin = 0; begin < columns; begin += op.block) {
    const int64_t count = std::min(op.block, columns - begin), end = begin + count;
    const float* factors = u + begin * (columns + 1);
    float threshold = 0;
    if (!op.m) {
      parallelFor(rows, [&](int64_t i) {
        for (int64_t j = 0; j < count; j++)
          scores[i * count + j] = scoreOf(w[i * columns + begin + j], factors[j * (columns + 1)]);
      });
      sorted.assign(scores.begin(), scores.begin() + rows * count);
      const auto least = sorted.begin() + static_cast<int64_t>(static_cast<double>(rows * count) * op.ratio);
      std::nth_element(sorted.begin(), least, sorted.end());
      threshold = *least;
    }
    parallelFor(rows, [&](int64_t i) {
      float *row = w + i * columns + begin, *e = errors.data() + i * count;
      if (op.m)
        cutRowByGroups(count, row, factors, columns, e, op.n, op.m);
      else
        cutRowByThreshold(count, row, factors, columns, e, scores.data() + i * count, threshold);
    });
    if (end == columns) break;
    gemm({rows,
          columns - end,
          count,
          {errors.data(), count},
          {u + begin * columns + end, columns},
          {w + end, columns},
          -1,
          1});
  }
}

}  // namespace loram
