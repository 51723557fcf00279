// Both passes go over tiles of scores [rowsPerTile, keysPerTile] and hold no more of the score matrix than one of them.
#include <cmath>
#include <limits>
#include <vector>

#include "../../core/parallel.h"
#include "tiles.h"

namespace loram {
namespace {

using namespace attention;

constexpr float infinity = std::numeric_limits<float>::infinity();

float scoreScale(int64_t headDim) { return static_cast<float>(1 / std::sqrt(static_cast<double>(headDim))); }

// One row of the online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867): scores of `visible` become exp(score -
// largest), all others zero, and the sum and the output so far are brought to the new largest score.
LORAM_CLONES void softmaxRow(float* scores, Columns visible, float& largest, double& sum, float* y, int64_t width) {
  visible.clearOthers(scores);
  const int64_t count = visible.end - visible.begin;
  if (count == 0) return;
  scores += visible.begin;
  const float previous = largest, now = std::max(previous, simd::max(scores, count));
  for (int64_t j = 0; j < count; j++) scores[j] = simd::exp(scores[j] - now);
  const float shrink = simd::exp(previous - now);
  sum = sum * shrink + simd::sum(count, [&](int64_t j) { return static_cast<double>(scores[j]); });
  largest = now;
  for (int64_t j = 0; j < width; j++) y[j] *= shrink;
}

// Rows of one kv head's queries that are worked on together.
struct RowTile {
  int64_t sequence, kvHead, firstRow;
};

class ForwardTile {
 public:
  explicit ForwardTile(const Attention& op) : op_(op), width_(padded(op.headDim)) {
    for (auto* rows : {&q_, &y_}) rows->resize(rowsPerTile * width_);
    for (auto* keys : {&kTransposed_, &v_}) keys->resize(keysPerTile * width_);
  }

  void run(const Group& group, int64_t firstRow) {
    const int64_t rows = std::min(rowsPerTile, group.rows - firstRow);
    load(q_.data(), rows, rows, op_.headDim, scoreScale(op_.headDim),
         [&](int64_t r) { return op_.q.as<float>() + group.row(firstRow + r); });
    std::fill(y_.begin(), y_.end(), 0.0f);
    std::fill_n(largest_, rows, -infinity);
    std::fill_n(sum_, rows, 0.0);
    const int64_t begin = group.firstVisible(firstRow) / keysPerTile * keysPerTile;
    const int64_t end = group.endVisible(firstRow + rows - 1);
    for (int64_t first = begin; first < end; first += keysPerTile) {
      keyTile(group, firstRow, rows, first, std::min(keysPerTile, end - first));
    }
    for (int64_t r = 0; r < rows; r++) {
      float* y = op_.y.as<float>() + group.row(firstRow + r);
      const float inverse = static_cast<float>(1 / sum_[r]);
      for (int64_t j = 0; j < op_.headDim; j++) y[j] = y_[r * width_ + j] * inverse;
      op_.lse.as<float>()[group.head(firstRow + r)] = static_cast<float>(largest_[r] + std::log(sum_[r]));
    }
  }

 private:
  void keyTile(const Group& group, int64_t firstRow, int64_t rows, int64_t firstKey, int64_t keys) {
    const auto kRow = [&](int64_t j) { return op_.k.as<float>() + group.key(firstKey + j); };
    const auto vRow = [&](int64_t j) { return op_.v.as<float>() + group.key(firstKey + j); };
    loadTransposed(kTransposed_.data(), keysPerTile, keys, op_.headDim, kRow);
    load(v_.data(), keysPerTile, keys, op_.headDim, 1, vRow);
    std::fill_n(p_, rows * keysPerTile, 0.0f);
    multiply(rows, padded(keys), op_.headDim, {q_.data(), width_, 1}, kTransposed_.data(), keysPerTile, p_,
             keysPerTile);
    for (int64_t r = 0; r < rows; r++) {
      softmaxRow(p_ + r * keysPerTile, Columns(group, firstRow + r, firstKey), largest_[r], sum_[r],
                 y_.data() + r * width_, width_);
    }
    multiply(rows, width_, keys, {p_, keysPerTile, 1}, v_.data(), width_, y_.data(), width_);
  }

  const Attention& op_;
  const int64_t width_;
  std::vector<float> q_, y_, kTransposed_, v_;
  float p_[rowsPerTile * keysPerTile], largest_[rowsPerTile];
  double sum_[rowsPerTile];
};

// One row of backward: scores become p = exp(score - lse) and dp becomes ds = p * (dp - delta), both zero but for
// `visible`.
LORAM_CLONES void scoreGradientRow(float* scores, float* dp, Columns visible, float lse, float delta) {
  for (int64_t j = visible.begin; j < visible.end; j++) {
    scores[j] = simd::exp(scores[j] - lse);
    dp[j] = scores[j] * (dp[j] - delta);
  }
  visible.clearOthers(scores);
  visible.clearOthers(dp);
}

LORAM_CLONES double dot(int64_t n, const float* a, const float* b) {
  return simd::sum(n, [&](int64_t j) { return static_cast<double>(a[j]) * b[j]; });
}

// All of one kv head in one sequence: the rows of its queries are kept whole, keys pass by in tiles. q is held scaled,
// as scores and dk need it; dq = scale * ds * k is scaled at the end.
class BackwardGroup {
 public:
  BackwardGroup(const AttentionBackward& op, const Group& group)
      : op_(op), group_(group), width_(padded(op.headDim)), lse_(group.rows), delta_(group.rows) {
    for (auto* rows : {&q_, &dy_, &dq_}) rows->resize(group.rows * width_);
    for (auto* keys : {&k_, &dk_, &dv_, &kTransposed_, &vTransposed_}) keys->resize(keysPerTile * width_);
    const auto qRow = [&](int64_t r) { return op.q.as<float>() + group.row(r); };
    const auto dyRow = [&](int64_t r) { return op.dy.as<float>() + group.row(r); };
    load(q_.data(), group.rows, group.rows, op.headDim, scoreScale(op.headDim), qRow);
    load(dy_.data(), group.rows, group.rows, op.headDim, 1, dyRow);
    for (int64_t r = 0; r < group.rows; r++) {
      lse_[r] = op.lse.as<float>()[group.head(r)];
      delta_[r] = static_cast<float>(dot(op.headDim, dyRow(r), op.y.as<float>() + group.row(r)));
    }
  }

  void run() {
    for (int64_t first = 0; first < group_.keys; first += keysPerTile) keyTile(first);
    const float scale = scoreScale(op_.headDim);
    for (int64_t r = 0; r < group_.rows; r++) {
      float* dq = op_.dq.as<float>() + group_.row(r);
      for (int64_t j = 0; j < op_.headDim; j++) dq[j] = scale * dq_[r * width_ + j];
    }
  }

 private:
  void keyTile(int64_t first) {
    const int64_t keys = std::min(keysPerTile, group_.keys - first);
    const auto kRow = [&](int64_t j) { return op_.k.as<float>() + group_.key(first + j); };
    const auto vRow = [&](int64_t j) { return op_.v.as<float>() + group_.key(first + j); };
    load(k_.data(), keysPerTile, keys, op_.headDim, 1, kRow);
    loadTransposed(kTransposed_.data(), keysPerTile, keys, op_.headDim, kRow);
    loadTransposed(vTransposed_.data(), keysPerTile, keys, op_.headDim, vRow);
    std::fill(dk_.begin(), dk_.end(), 0.0f);
    std::fill(dv_.begin(), dv_.end(), 0.0f);
    // The keys are hidden from the queries before the first of them, and from those a window after the last.
    const int64_t end = std::min(group_.rows, (first + keys - 1 + group_.window) * group_.size);
    for (int64_t row = first * group_.size; row < end; row += rowsPerTile) rowTile(first, row);
    for (int64_t j = 0; j < keys; j++) {
      std::copy_n(dk_.data() + j * width_, op_.headDim, op_.dk.as<float>() + group_.key(first + j));
      std::copy_n(dv_.data() + j * width_, op_.headDim, op_.dv.as<float>() + group_.key(first + j));
    }
  }

  void rowTile(int64_t firstKey, int64_t firstRow) {
    const int64_t rows = std::min(rowsPerTile, group_.rows - firstRow);
    const int64_t keys = Columns(group_, firstRow + rows - 1, firstKey).end;
    const float *q = q_.data() + firstRow * width_, *dy = dy_.data() + firstRow * width_;
    std::fill_n(p_, rows * keysPerTile, 0.0f);
    std::fill_n(ds_, rows * keysPerTile, 0.0f);
    multiply(rows, padded(keys), op_.headDim, {q, width_, 1}, kTransposed_.data(), keysPerTile, p_, keysPerTile);
    multiply(rows, padded(keys), op_.headDim, {dy, width_, 1}, vTransposed_.data(), keysPerTile, ds_, keysPerTile);
    for (int64_t r = 0; r < rows; r++) {
      scoreGradientRow(p_ + r * keysPerTile, ds_ + r * keysPerTile, Columns(group_, firstRow + r, firstKey),
                       lse_[firstRow + r], delta_[firstRow + r]);
    }
    multiply(keys, width_, rows, {p_, 1, keysPerTile}, dy, width_, dv_.data(), width_);
    multiply(keys, width_, rows, {ds_, 1, keysPerTile}, q, width_, dk_.data(), width_);
    multiply(rows, width_, keys, {ds_, keysPerTile, 1}, k_.data(), width_, dq_.data() + firstRow * width_, width_);
  }

  const AttentionBackward& op_;
  const Group& group_;
  const int64_t width_;
  std::vector<float> q_, dy_, dq_, lse_, delta_;
  std::vector<float> k_, dk_, dv_, kTransposed_, vTransposed_;
  float p_[rowsPerTile * keysPerTile], ds_[rowsPerTile * keysPerTile];
};

}  // namespace

void cpu(const Attention& op) {
  const int32_t *queryBounds = op.queryBounds.as<int32_t>(), *keyBounds = op.keyBounds.as<int32_t>();
  const int64_t sequences = op.queryBounds.elements() - 1, kvHeads = op.k.columns() / op.headDim;
  std::vector<RowTile> tiles;
  const auto groupOf = [&](int64_t sequence, int64_t kvHead) {
    return Group(op.q, op.k, op.headDim, op.window, queryBounds, keyBounds, sequence, kvHead);
  };
  for (int64_t s = 0; s < sequences; s++) {
    for (int64_t h = 0; h < kvHeads; h++) {
      const int64_t rows = groupOf(s, h).rows;
      for (int64_t row = 0; row < rows; row += rowsPerTile) tiles.push_back({s, h, row});
    }
  }
  parallelRanges(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end) {
    ForwardTile tile(op);
    for (int64_t i = begin; i < end; i++) tile.run(groupOf(tiles[i].sequence, tiles[i].kvHead), tiles[i].firstRow);
  });
}

void cpu(const AttentionBackward& op) {
  const int32_t* bounds = op.bounds.as<int32_t>();
  const int64_t sequences = op.bounds.elements() - 1, kvHeads = op.k.columns() / op.headDim;
  parallelFor(sequences * kvHeads, [&](int64_t i) {
    const Group group(op.q, op.k, op.headDim, op.window, bounds, bounds, i / kvHeads, i % kvHeads);
    BackwardGroup(op, group).run();
  });
}

}  // namespace loram
