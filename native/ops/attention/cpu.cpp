// Both passes go over tiles of scores [rowsPerTile, keysPerTile] and never hold more of the score matrix than one of them.
#include <cmath>
#include <limits>
#include <vector>

#include "tiles.h"

#include "../../core/parallel.h"

namespace loram {
namespace {

using namespace attention;

constexpr float infinity = std::numeric_limits<float>::infinity();

float scoreScale(int64_t headDim) { return static_cast<float>(1 / std::sqrt(static_cast<double>(headDim))); }

// One row of the online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867): turns scores into exp(score - largest),
// zero from `visible` on, and brings the sum and the output so far to the new largest score.
LORAM_CLONES void softmaxRow(float* scores, int64_t visible, float& largest, double& sum, float* y, int64_t width) {
  std::fill(scores + visible, scores + keysPerTile, 0.0f);
  if (visible == 0) return;
  const float previous = largest, now = std::max(previous, simd::max(scores, visible));
  for (int64_t j = 0; j < visible; j++) scores[j] = simd::exp(scores[j] - now);
  const float shrink = simd::exp(previous - now);
  sum = sum * shrink + simd::sum(visible, [&](int64_t j) { return static_cast<double>(scores[j]); });
  largest = now;
  for (int64_t j = 0; j < width; j++) y[j] *= shrink;
}

struct ForwardScratch {
  explicit ForwardScratch(int64_t width)
      : q(rowsPerTile * width), k(width * keysPerTile), v(keysPerTile * width), y(rowsPerTile * width) {}
  std::vector<float> q, k, v, y;
  float scores[rowsPerTile * keysPerTile];
};

void forwardTile(const Attention& op, const Group& group, int64_t firstRow, ForwardScratch& s) {
  const int64_t headDim = op.headDim, width = paddedDim(headDim);
  const int64_t rows = std::min(rowsPerTile, group.rows - firstRow);
  const auto qRow = [&](int64_t r) { return op.q.as<float>() + group.row(firstRow + r); };
  load(s.q.data(), rows, rows, headDim, width, scoreScale(headDim), qRow);
  std::fill(s.y.begin(), s.y.end(), 0.0f);
  float largest[rowsPerTile];
  double sum[rowsPerTile] = {};
  std::fill_n(largest, rowsPerTile, -infinity);
  const int64_t end = group.visible(firstRow + rows - 1);
  for (int64_t first = 0; first < end; first += keysPerTile) {
    const int64_t keys = std::min(keysPerTile, end - first);
    loadTransposed(s.k.data(), keysPerTile, keys, headDim,
                   [&](int64_t j) { return op.k.as<float>() + group.key(first + j); });
    load(s.v.data(), keysPerTile, keys, headDim, width, 1, [&](int64_t j) { return op.v.as<float>() + group.key(first + j); });
    std::fill_n(s.scores, rows * keysPerTile, 0.0f);
    multiply(rows, keysPerTile, headDim, {s.q.data(), width, 1}, s.k.data(), keysPerTile, s.scores, keysPerTile);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t visible = std::clamp<int64_t>(group.visible(firstRow + r) - first, 0, keysPerTile);
      softmaxRow(s.scores + r * keysPerTile, visible, largest[r], sum[r], s.y.data() + r * width, width);
    }
    multiply(rows, width, keysPerTile, {s.scores, keysPerTile, 1}, s.v.data(), width, s.y.data(), width);
  }
  for (int64_t r = 0; r < rows; r++) {
    float* y = op.y.as<float>() + group.row(firstRow + r);
    const float inverse = static_cast<float>(1 / sum[r]);
    for (int64_t j = 0; j < headDim; j++) y[j] = s.y[r * width + j] * inverse;
    op.lse.as<float>()[group.head(firstRow + r)] = static_cast<float>(largest[r] + std::log(sum[r]));
  }
}

struct Tile {
  int64_t sequence, kvHead, firstRow;
};

// One row of backward: scores become p = exp(score - lse), zero from `visible` on, and dp becomes ds = p * (dp - delta).
LORAM_CLONES void scoreGradientRow(float* scores, float* dp, int64_t visible, float lse, float delta) {
  for (int64_t j = 0; j < visible; j++) {
    scores[j] = simd::exp(scores[j] - lse);
    dp[j] = scores[j] * (dp[j] - delta);
  }
  std::fill(scores + visible, scores + keysPerTile, 0.0f);
  std::fill(dp + visible, dp + keysPerTile, 0.0f);
}

LORAM_CLONES double dot(int64_t n, const float* a, const float* b) {
  return simd::sum(n, [&](int64_t j) { return static_cast<double>(a[j]) * b[j]; });
}

// All of one kv head in one sequence: the rows of its queries are kept whole, keys pass by in tiles. q is held scaled, as
// scores and dk need it; dq = scale * ds * k is scaled at the end.
struct Backward {
  Backward(const AttentionBackward& op, const Group& group)
      : op(op),
        group(group),
        headDim(op.headDim),
        width(paddedDim(headDim)),
        scale(scoreScale(headDim)),
        lse(group.rows),
        delta(group.rows) {
    for (auto* rows : {&q, &dy, &dq}) rows->resize(group.rows * width);
    for (auto* keys : {&k, &dk, &dv, &kTransposed, &vTransposed}) keys->resize(keysPerTile * width);
    load(q.data(), group.rows, group.rows, headDim, width, scale, [&](int64_t r) { return op.q.as<float>() + group.row(r); });
    load(dy.data(), group.rows, group.rows, headDim, width, 1, [&](int64_t r) { return op.dy.as<float>() + group.row(r); });
    for (int64_t r = 0; r < group.rows; r++) {
      lse[r] = op.lse.as<float>()[group.head(r)];
      delta[r] = static_cast<float>(dot(headDim, dy.data() + r * width, op.y.as<float>() + group.row(r)));
    }
  }

  void run() {
    for (int64_t first = 0; first < group.keys; first += keysPerTile) keyTile(first);
    for (int64_t r = 0; r < group.rows; r++) {
      float* to = op.dq.as<float>() + group.row(r);
      for (int64_t j = 0; j < headDim; j++) to[j] = scale * dq[r * width + j];
    }
  }

 private:
  void keyTile(int64_t first) {
    const int64_t keys = std::min(keysPerTile, group.keys - first);
    const auto kRow = [&](int64_t j) { return op.k.as<float>() + group.key(first + j); };
    const auto vRow = [&](int64_t j) { return op.v.as<float>() + group.key(first + j); };
    load(k.data(), keysPerTile, keys, headDim, width, 1, kRow);
    loadTransposed(kTransposed.data(), keysPerTile, keys, headDim, kRow);
    loadTransposed(vTransposed.data(), keysPerTile, keys, headDim, vRow);
    std::fill(dk.begin(), dk.end(), 0.0f);
    std::fill(dv.begin(), dv.end(), 0.0f);
    // Key `first` is hidden from the queries before it.
    for (int64_t row = first * group.size; row < group.rows; row += rowsPerTile) rowTile(first, row);
    for (int64_t j = 0; j < keys; j++) {
      std::copy_n(dk.data() + j * width, headDim, op.dk.as<float>() + group.key(first + j));
      std::copy_n(dv.data() + j * width, headDim, op.dv.as<float>() + group.key(first + j));
    }
  }

  void rowTile(int64_t firstKey, int64_t firstRow) {
    const int64_t rows = std::min(rowsPerTile, group.rows - firstRow);
    const float *qTile = q.data() + firstRow * width, *dyTile = dy.data() + firstRow * width;
    std::fill_n(p, rows * keysPerTile, 0.0f);
    std::fill_n(ds, rows * keysPerTile, 0.0f);
    multiply(rows, keysPerTile, headDim, {qTile, width, 1}, kTransposed.data(), keysPerTile, p, keysPerTile);
    multiply(rows, keysPerTile, headDim, {dyTile, width, 1}, vTransposed.data(), keysPerTile, ds, keysPerTile);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t visible = std::clamp<int64_t>(group.visible(firstRow + r) - firstKey, 0, keysPerTile);
      scoreGradientRow(p + r * keysPerTile, ds + r * keysPerTile, visible, lse[firstRow + r], delta[firstRow + r]);
    }
    multiply(keysPerTile, width, rows, {p, 1, keysPerTile}, dyTile, width, dv.data(), width);
    multiply(keysPerTile, width, rows, {ds, 1, keysPerTile}, qTile, width, dk.data(), width);
    multiply(rows, width, keysPerTile, {ds, keysPerTile, 1}, k.data(), width, dq.data() + firstRow * width, width);
  }

  const AttentionBackward& op;
  const Group& group;
  const int64_t headDim, width;
  const float scale;
  std::vector<float> q, dy, dq, lse, delta;
  std::vector<float> k, dk, dv, kTransposed, vTransposed;
  float p[rowsPerTile * keysPerTile], ds[rowsPerTile * keysPerTile];
};

}  // namespace

void cpu(const Attention& op) {
  const int32_t *queryBounds = op.queryBounds.as<int32_t>(), *keyBounds = op.keyBounds.as<int32_t>();
  const int64_t sequences = op.queryBounds.elements() - 1, kvHeads = op.k.columns() / op.headDim;
  std::vector<Tile> tiles;
  const auto groupOf = [&](int64_t sequence, int64_t kvHead) {
    return Group(op.q, op.k, op.headDim, queryBounds, keyBounds, sequence, kvHead);
  };
  for (int64_t s = 0; s < sequences; s++) {
    for (int64_t h = 0; h < kvHeads; h++) {
      const int64_t rows = groupOf(s, h).rows;
      for (int64_t row = 0; row < rows; row += rowsPerTile) tiles.push_back({s, h, row});
    }
  }
  parallelRanges(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end) {
    ForwardScratch scratch(paddedDim(op.headDim));
    for (int64_t i = begin; i < end; i++) {
      forwardTile(op, groupOf(tiles[i].sequence, tiles[i].kvHead), tiles[i].firstRow, scratch);
    }
  });
}

void cpu(const AttentionBackward& op) {
  const int32_t* bounds = op.bounds.as<int32_t>();
  const int64_t sequences = op.bounds.elements() - 1, kvHeads = op.k.columns() / op.headDim;
  parallelFor(sequences * kvHeads, [&](int64_t i) {
    const Group group(op.q, op.k, op.headDim, bounds, bounds, i / kvHeads, i % kvHeads);
    Backward(op, group).run();
  });
}

}  // namespace loram
