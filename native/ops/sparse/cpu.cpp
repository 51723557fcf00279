#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "../../cpu/reduce.h"
#include "../ops.h"
#include "leastOf.h"

namespace loram {
namespace {

// The n of m values with the least scores, by a partial sort; pairs compare by score, then by place.
template <class Score>
void cutLeastOfMany(int64_t n, int64_t m, float* w, Score score) {
  std::vector<std::pair<float, int32_t>> order(m);
  for (int64_t j = 0; j < m; j++) order[j] = {score(j), static_cast<int32_t>(j)};
  if (n < m) std::nth_element(order.begin(), order.begin() + n, order.end());
  for (int64_t i = 0; i < n; i++) w[order[i].second] = 0;
}

}  // namespace

void cpu(const CutLeast& op) {
  const int64_t columns = op.w.columns(), runs = columns / op.m;
  const float* scale = op.scale.as<float>();
  const auto run = [&](int64_t i) {
    float* w = op.w.as<float>() + i * op.m;
    const float* scales = scale ? scale + i % runs * op.m : nullptr;
    const auto score = [&](int64_t j) { return scales ? std::abs(w[j]) * scales[j] : std::abs(w[j]); };
    if (op.m > largestGroup) return cutLeastOfMany(op.n, op.m, w, score);
    const LeastOf least(op.n, op.m, score);
    for (int64_t j = 0; j < op.m; j++) w[j] = least.has(j) ? 0 : w[j];
  };
  parallelFor(op.w.rows() * runs, run, rowGrain(op.m));
}

}  // namespace loram
