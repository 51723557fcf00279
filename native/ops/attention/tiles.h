// What attention's forward and backward passes share: how the rows of a kv head are laid out, and products of small
// tiles.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram::attention {

// Rows of queries and columns of keys that are worked on at a time: a tile of scores fits the first-level cache.
constexpr int64_t rowsPerTile = 48, keysPerTile = 48;

// Floats a vector holds; products are as wide as a multiple of two, with zeros at the end.
constexpr int64_t lanes = 8;
using Floats = float __attribute__((vector_size(lanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline int64_t padded(int64_t width) { return (width + 2 * lanes - 1) / (2 * lanes) * (2 * lanes); }

// The queries of all heads that read one kv head are the rows of one matrix: row r is query r / group, head r % group.
// So its keys are loaded once, and a single query while decoding still fills a tile with several rows.
struct Group {
  int64_t size, headDim, rows, keys, window;
  int64_t firstQuery, firstKey, queryStride, keyStride, queryHead, keyHead;

  Group(const Tensor& q, const Tensor& k, int64_t headDim, int64_t window, const int32_t* queryBounds,
        const int32_t* keyBounds, int64_t sequence, int64_t kvHead)
      : size(q.columns() / k.columns()),
        headDim(headDim),
        rows((queryBounds[sequence + 1] - queryBounds[sequence]) * size),
        keys(keyBounds[sequence + 1] - keyBounds[sequence]),
        window(window > 0 ? window : keys),
        firstQuery(queryBounds[sequence]),
        firstKey(keyBounds[sequence]),
        queryStride(q.columns()),
        keyStride(k.columns()),
        queryHead(kvHead * size),
        keyHead(kvHead) {}

  // Where row r of a [Tq, nh * headDim] tensor begins, and key j of a [Tk, nkv * headDim] one.
  int64_t row(int64_t r) const { return (firstQuery + r / size) * queryStride + (queryHead + r % size) * headDim; }
  int64_t key(int64_t j) const { return (firstKey + j) * keyStride + keyHead * headDim; }
  // Where row r lies in lse [Tq, nh].
  int64_t head(int64_t r) const { return (firstQuery + r / size) * (queryStride / headDim) + queryHead + r % size; }
  // Row r sees the keys [firstVisible(r), endVisible(r)): the ends of queries and keys are aligned.
  int64_t endVisible(int64_t r) const { return r / size + 1 + keys - rows / size; }
  int64_t firstVisible(int64_t r) const { return std::max<int64_t>(0, endVisible(r) - window); }
};

// Those of a tile's columns that stand for keys which a row sees.
struct Columns {
  int64_t begin, end;

  Columns(const Group& group, int64_t row, int64_t firstKey)
      : begin(std::clamp<int64_t>(group.firstVisible(row) - firstKey, 0, keysPerTile)),
        end(std::clamp<int64_t>(group.endVisible(row) - firstKey, 0, keysPerTile)) {}

  // Zero in all others.
  void clearOthers(float* row) const {
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + keysPerTile, 0.0f);
  }
};

// tile[r] = scale * source(r) for r < count; zero in the other rows and beyond headDim columns.
template <class Source>
void load(float* tile, int64_t rows, int64_t count, int64_t headDim, float scale, Source source) {
  const int64_t width = padded(headDim);
  std::fill_n(tile, rows * width, 0.0f);
  for (int64_t r = 0; r < count; r++) {
    const float* from = source(r);
    for (int64_t j = 0; j < headDim; j++) tile[r * width + j] = scale * from[j];
  }
}

// The transpose: tile[j * rows + r] = source(r)[j].
template <class Source>
void loadTransposed(float* tile, int64_t rows, int64_t count, int64_t headDim, Source source) {
  for (int64_t r = 0; r < rows; r++) {
    const float* from = r < count ? source(r) : nullptr;
    for (int64_t j = 0; j < headDim; j++) tile[j * rows + r] = from ? from[j] : 0.0f;
  }
}

// A matrix in memory of which element (i, k) is data[i * row + k * column].
struct Strided {
  const float* data;
  int64_t row, column;

  Strided from(int64_t i) const { return {data + i * row, row, column}; }
};

// R rows and two vectors of columns of c += a * b, held in registers.
template <int R>
[[gnu::always_inline]] inline void multiplyPanel(int64_t depth, Strided a, const float* b, int64_t bStride, float* c,
                                                 int64_t cStride) {
  Floats left[R], right[R];
  for (int r = 0; r < R; r++) {
    left[r] = *reinterpret_cast<const Floats*>(c + r * cStride);
    right[r] = *reinterpret_cast<const Floats*>(c + r * cStride + lanes);
  }
  for (int64_t k = 0; k < depth; k++) {
    const Floats b0 = *reinterpret_cast<const Floats*>(b + k * bStride);
    const Floats b1 = *reinterpret_cast<const Floats*>(b + k * bStride + lanes);
    for (int r = 0; r < R; r++) {
      const float value = a.data[r * a.row + k * a.column];
      left[r] += value * b0;
      right[r] += value * b1;
    }
  }
  for (int r = 0; r < R; r++) {
    *reinterpret_cast<Floats*>(c + r * cStride) = left[r];
    *reinterpret_cast<Floats*>(c + r * cStride + lanes) = right[r];
  }
}

// c[rows, columns] += a[rows, depth] * b[depth, columns]; columns is a multiple of 2 * lanes.
LORAM_CLONES inline void multiply(int64_t rows, int64_t columns, int64_t depth, Strided a, const float* b,
                                  int64_t bStride, float* c, int64_t cStride) {
  constexpr int rowsPerPanel = 6;
  for (int64_t j = 0; j < columns; j += 2 * lanes) {
    int64_t i = 0;
    for (; i + rowsPerPanel <= rows; i += rowsPerPanel) {
      multiplyPanel<rowsPerPanel>(depth, a.from(i), b + j, bStride, c + i * cStride + j, cStride);
    }
    for (; i < rows; i++) multiplyPanel<1>(depth, a.from(i), b + j, bStride, c + i * cStride + j, cStride);
  }
}

}  // namespace loram::attention
