// Blocked as in BLIS (Van Zee and van de Geijn 2015, doi:10.1145/2764454): panels of a and b are packed in the order in
// which the micro-kernel reads them, for one block of K and of C at a time. All threads pack, then all compute.
#include "gemm.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "../core/parallel.h"
#include "kernels.h"

namespace loram {
namespace {

// A block of packed a (mBlock x kBlock) and of packed b (kBlock x nBlock) lie in the L3 cache, the part of both that a
// tile needs (tilePanels panels of each) in the L2 cache of a core.
constexpr int64_t mBlock = 2016, nBlock = 3072, kBlock = 640;
constexpr int64_t tilePanels = 6;
// Up to here a dot product per element, which reads b in place, is faster than packing b.
constexpr int64_t dotRows = 8;

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that a thread keeps from call to call.
class Scratch {
 public:
  float* floats(int64_t count) {
    if (count > capacity_) {
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, ceilDiv(count, 16) * 64)));
      capacity_ = memory_ ? count : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

thread_local Scratch packedA, packedB, widened;

// Equal blocks of K, so that none is short.
int64_t evenBlock(int64_t k) { return std::max<int64_t>(1, ceilDiv(k, std::max<int64_t>(1, ceilDiv(k, kBlock)))); }

struct Range {
  int64_t begin, size;
};

// Panel i of a block of op(a): [depth.size][tileRows], or narrower at the end of the block.
void packLeft(const GemmProblem& p, Range rows, Range depth, int64_t panel, float* packed) {
  const auto& kernel = kernels();
  const int64_t first = panel * kernel.tileRows;
  const int count = static_cast<int>(std::min<int64_t>(kernel.tileRows, rows.size - first));
  float* target = packed + first * depth.size;
  if (p.a.transposed) {
    const float* source = p.a.data + depth.begin * p.a.stride + rows.begin + first;
    for (int64_t j = 0; j < depth.size; j++)
      std::memcpy(target + j * count, source + j * p.a.stride, count * sizeof(float));
  } else {
    const float* sources[16];
    for (int i = 0; i < count; i++) sources[i] = p.a.data + (rows.begin + first + i) * p.a.stride + depth.begin;
    kernel.transpose(sources, count, depth.size, target, count);
  }
}

// Columns of op(b) that are rows in memory: panel i of the block, turned.
void packRightTransposed(const GemmProblem& p, Range columns, Range depth, int64_t panel, float* packed) {
  const auto& kernel = kernels();
  const int64_t first = panel * kernel.tileColumns;
  const int count = static_cast<int>(std::min<int64_t>(kernel.tileColumns, columns.size - first));
  float* scratch = widened.floats(count * depth.size);
  const float* sources[32];
  for (int i = 0; i < count; i++) {
    sources[i] = p.b.read(columns.begin + first + i, depth.begin, depth.size, scratch + i * depth.size);
  }
  kernel.transpose(sources, count, depth.size, packed + first * depth.size, kernel.tileColumns);
}

// Row j of the block of op(b), dealt out to the panels.
void packRightRow(const GemmProblem& p, Range columns, Range depth, int64_t j, float* packed) {
  const int64_t width = kernels().tileColumns;
  const float* source = p.b.read(depth.begin + j, columns.begin, columns.size, widened.floats(columns.size));
  for (int64_t first = 0; first < columns.size; first += width) {
    const int64_t count = std::min(width, columns.size - first);
    std::memcpy(packed + first * depth.size + j * width, source + first, count * sizeof(float));
  }
}

// A tile of the block of c: tilePanels panels of rows by tilePanels panels of columns.
void multiplyTile(const GemmProblem& p, Range rows, Range columns, Range depth, int64_t tile, const float* a,
                  const float* b, float beta) {
  const auto& kernel = kernels();
  const int64_t height = kernel.tileRows * tilePanels, width = kernel.tileColumns * tilePanels;
  const int64_t down = ceilDiv(rows.size, height);
  const int64_t top = tile % down * height, left = tile / down * width;
  for (int64_t j = left; j < std::min(left + width, columns.size); j += kernel.tileColumns) {
    const int tileColumns = static_cast<int>(std::min<int64_t>(kernel.tileColumns, columns.size - j));
    for (int64_t i = top; i < std::min(top + height, rows.size); i += kernel.tileRows) {
      const int tileRows = static_cast<int>(std::min<int64_t>(kernel.tileRows, rows.size - i));
      float* c = p.c.data + (rows.begin + i) * p.c.stride + columns.begin + j;
      kernel.tile(tileRows, tileColumns, depth.size, a + i * depth.size, b + j * depth.size, c, p.c.stride, p.alpha,
                  beta);
    }
  }
}

void multiplyBlock(const GemmProblem& p, Range rows, Range columns, Range depth) {
  const auto& kernel = kernels();
  const int64_t leftPanels = ceilDiv(rows.size, kernel.tileRows);
  const int64_t rightPanels = ceilDiv(columns.size, kernel.tileColumns);
  float* a = packedA.floats(rows.size * depth.size);
  float* b = packedB.floats(rightPanels * kernel.tileColumns * depth.size);
  const float beta = depth.begin == 0 ? p.beta : 1;

  if (columns.begin == 0) parallelFor(leftPanels, [&](int64_t i) { packLeft(p, rows, depth, i, a); }, 4);
  if (p.b.transposed) {
    parallelFor(rightPanels, [&](int64_t i) { packRightTransposed(p, columns, depth, i, b); });
  } else {
    parallelFor(depth.size, [&](int64_t j) { packRightRow(p, columns, depth, j, b); }, 16);
  }
  const int64_t tiles = ceilDiv(leftPanels, tilePanels) * ceilDiv(rightPanels, tilePanels);
  parallelFor(tiles, [&](int64_t t) { multiplyTile(p, rows, columns, depth, t, a, b, beta); });
}

void blocked(const GemmProblem& p) {
  const int64_t depthBlock = evenBlock(p.k);
  for (int64_t i = 0; i < p.m; i += mBlock) {
    const Range rows{i, std::min(mBlock, p.m - i)};
    int64_t d = 0;
    do {  // once even if K is 0: c = beta * c
      const Range depth{d, std::min(depthBlock, p.k - d)};
      for (int64_t j = 0; j < p.n; j += nBlock) multiplyBlock(p, rows, {j, std::min(nBlock, p.n - j)}, depth);
      d += depthBlock;
    } while (d < p.k);
  }
}

// Four columns of c, which are four rows of b in memory, for up to dotRows rows.
void dotColumns(const GemmProblem& p, int64_t column) {
  const auto& kernel = kernels();
  const int count = static_cast<int>(std::min<int64_t>(4, p.n - column));
  const int64_t depthBlock = evenBlock(p.k);
  float total[dotRows][4] = {}, sums[16];
  float* scratch = widened.floats(4 * depthBlock);
  for (int64_t d = 0; d < p.k; d += depthBlock) {
    const int64_t depth = std::min(depthBlock, p.k - d);
    const float* w[4];
    for (int j = 0; j < 4; j++) w[j] = j < count ? p.b.read(column + j, d, depth, scratch + j * depth) : w[0];
    for (int64_t i = 0; i < p.m; i += 4) {
      const int rows = static_cast<int>(std::min<int64_t>(4, p.m - i));
      kernel.dot(w, p.a.data + i * p.a.stride + d, p.a.stride, rows, depth, sums);
      for (int s = 0; s < 4 * rows; s++) total[i + s / 4][s % 4] += sums[s];
    }
  }
  for (int64_t i = 0; i < p.m; i++) {
    float* c = p.c.data + i * p.c.stride + column;
    for (int j = 0; j < count; j++) c[j] = p.beta == 0 ? p.alpha * total[i][j] : p.alpha * total[i][j] + p.beta * c[j];
  }
}

}  // namespace

const float* GemmRight::read(int64_t row, int64_t column, int64_t count, float* scratch) const {
  const int64_t first = row * stride + column;
  if (const auto* floats = std::get_if<const float*>(&data)) return *floats + first;
  if (const auto* bf16 = std::get_if<const Bf16*>(&data)) {
    kernels().widenBf16(*bf16 + first, count, scratch);
  } else {
    std::get<Nf4View>(data).decode(first, count, scratch);
  }
  return scratch;
}

void gemm(const GemmProblem& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.m > dotRows || p.a.transposed || !p.b.transposed) return blocked(p);
  const int64_t groups = ceilDiv(p.n, 4), work = 4 * std::max<int64_t>(1, p.k * p.m);
  parallelFor(groups, [&](int64_t g) { dotColumns(p, 4 * g); }, ceilDiv(1 << 15, work));
}

}  // namespace loram
