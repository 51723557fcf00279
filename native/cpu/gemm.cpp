// Blocked as in BLIS (Van Zee and van de Geijn 2015, doi:10.1145/2764454): panels of a and b are packed in the order in
// which the micro-kernel reads them, for one block of K and of C at a time. All threads pack, then all compute.
#include "gemm.h"

#include <algorithm>
#include <cstdlib>
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

// The size of the blocks that K is cut into: nearly equal, and whole blocks of NF4.
int64_t evenBlock(int64_t k) { return k <= kBlock ? k : ceilDiv(ceilDiv(k, ceilDiv(k, kBlock)), nf4Block) * nf4Block; }

struct Range {
  int64_t begin, size;
};

// Panel i of a block of op(a): [depth.size][tileRows], or narrower at the end of the block.
void packLeft(const GemmProblem& p, Range rows, Range depth, int64_t panel, float* packed) {
  const auto& kernel = kernels();
  const int64_t first = panel * kernel.tileRows;
  const int count = static_cast<int>(std::min<int64_t>(kernel.tileRows, rows.size - first));
  const int64_t row = rows.begin + first;
  float* target = packed + first * depth.size;
  if (p.a.transposed) {
    kernel.copy(p.a.data + depth.begin * p.a.stride + row, p.a.stride, count, depth.size, target, count);
  } else {
    kernel.transpose(p.a.data + row * p.a.stride + depth.begin, p.a.stride, count, depth.size, target, count);
  }
}

// Panel i of a block of op(b) whose columns are rows in memory.
void packRightTransposed(const GemmProblem& p, Range columns, Range depth, int64_t panel, float* packed) {
  const auto& kernel = kernels();
  const int64_t first = panel * kernel.tileColumns;
  const int count = static_cast<int>(std::min<int64_t>(kernel.tileColumns, columns.size - first));
  float* scratch = widened.floats(count * depth.size);
  const auto source = p.b.read(columns.begin + first, count, depth.begin, depth.size, scratch);
  kernel.transpose(source.data, source.stride, count, depth.size, packed + first * depth.size, kernel.tileColumns);
}

// Some rows of the block of op(b), dealt out to the panels.
void packRight(const GemmProblem& p, Range columns, Range depth, Range rows, float* packed) {
  const auto& kernel = kernels();
  float* scratch = widened.floats(rows.size * columns.size);
  const auto source = p.b.read(depth.begin + rows.begin, rows.size, columns.begin, columns.size, scratch);
  for (int64_t first = 0; first < columns.size; first += kernel.tileColumns) {
    const int count = static_cast<int>(std::min<int64_t>(kernel.tileColumns, columns.size - first));
    float* target = packed + first * depth.size + rows.begin * kernel.tileColumns;
    kernel.copy(source.data + first, source.stride, count, rows.size, target, kernel.tileColumns);
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
    parallelBlocks(depth.size, 16,
                   [&](int64_t begin, int64_t size) { packRight(p, columns, depth, {begin, size}, b); });
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

// sums[i * 4 + j] = row i of x times row `column + j` of b, over a part of k. Of fewer than four rows of b the first
// one fills the gaps.
void dotBlock(const GemmProblem& p, const float* x, int m, int64_t column, int count, Range depth, float* sums) {
  const auto& kernel = kernels();
  const auto offset = [&](int j) { return (column + (j < count ? j : 0)) * p.b.stride + depth.begin; };
  const auto dot = [&](auto kernelDot, const auto* data) {
    const decltype(data) w[] = {data + offset(0), data + offset(1), data + offset(2), data + offset(3)};
    kernelDot(w, x, p.a.stride, m, depth.size, sums);
  };
  if (const auto* floats = std::get_if<const float*>(&p.b.data)) return dot(kernel.dotF32, *floats);
  if (const auto* bf16 = std::get_if<const Bf16*>(&p.b.data)) return dot(kernel.dotBf16, *bf16);

  const auto& nf4 = std::get<Nf4View>(p.b.data);
  if (p.b.stride % nf4Block == 0) {
    constexpr int64_t maxBlocks = kBlock / nf4Block;
    float scales[4][maxBlocks];
    Nf4Blocks w[4];
    for (int j = 0; j < 4; j++) {
      for (int64_t i = 0; i < depth.size / nf4Block; i++) scales[j][i] = nf4.scale(offset(j) / nf4Block + i);
      w[j] = {nf4.packed + offset(j) / 2, scales[j]};
    }
    kernel.dotNf4(w, x, p.a.stride, m, depth.size, sums);
  } else {
    const auto rows = p.b.read(column, count, depth.begin, depth.size, widened.floats(4 * depth.size));
    const float* w[4];
    for (int j = 0; j < 4; j++) w[j] = rows.data + (j < count ? j : 0) * rows.stride;
    kernel.dotF32(w, x, p.a.stride, m, depth.size, sums);
  }
}

// Four columns of c, which are four rows of b in memory, for up to dotRows rows.
void dotColumns(const GemmProblem& p, int64_t column) {
  const int count = static_cast<int>(std::min<int64_t>(4, p.n - column));
  const int64_t depthBlock = evenBlock(p.k);
  float total[dotRows][4] = {}, sums[16];
  for (int64_t d = 0; d < p.k; d += depthBlock) {
    const Range depth{d, std::min(depthBlock, p.k - d)};
    for (int64_t i = 0; i < p.m; i += 4) {
      const int rows = static_cast<int>(std::min<int64_t>(4, p.m - i));
      dotBlock(p, p.a.data + i * p.a.stride + d, rows, column, count, depth, sums);
      for (int s = 0; s < 4 * rows; s++) total[i + s / 4][s % 4] += sums[s];
    }
  }
  for (int64_t i = 0; i < p.m; i++) {
    float* c = p.c.data + i * p.c.stride + column;
    for (int j = 0; j < count; j++) c[j] = p.beta == 0 ? p.alpha * total[i][j] : p.alpha * total[i][j] + p.beta * c[j];
  }
}

}  // namespace

FloatMatrix GemmRight::read(int64_t row, int64_t rows, int64_t column, int64_t columns, float* scratch) const {
  const int64_t first = row * stride + column;
  if (const auto* floats = std::get_if<const float*>(&data)) return {*floats + first, stride};
  for (int64_t i = 0; i < rows; i++) {
    if (const auto* bf16 = std::get_if<const Bf16*>(&data)) {
      kernels().widenBf16(*bf16 + first + i * stride, columns, scratch + i * columns);
    } else {
      std::get<Nf4View>(data).decode(first + i * stride, columns, scratch + i * columns);
    }
  }
  return {scratch, columns};
}

void gemm(const GemmProblem& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.m > dotRows || p.a.transposed || !p.b.transposed) return blocked(p);
  const int64_t groups = ceilDiv(p.n, 4), work = 4 * std::max<int64_t>(1, p.k * p.m);
  parallelFor(groups, [&](int64_t g) { dotColumns(p, 4 * g); }, ceilDiv(1 << 15, work));
}

}  // namespace loram
