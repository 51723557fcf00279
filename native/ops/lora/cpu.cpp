#include <algorithm>
#include <memory>

#include "../../core/parallel.h"
#include "../../core/philox.h"
#include "../../cpu/gemm.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

// What one thread masks and multiplies at a time, so that the masked copy stays in its cache.
constexpr int64_t blockRows = 64, blockColumns = 64, blockDepth = 256;

std::unique_ptr<float[]> floats(int64_t count) { return std::unique_ptr<float[]>(new float[count]); }

// mask[i] = 0, or 1 / (1 - dropout), for the elements first .. first + count - 1 of a tensor.
LORAM_CLONES void dropoutMask(uint64_t seed, uint64_t stream, float dropout, int64_t first, int64_t count,
                              float* mask) {
  constexpr int64_t counters = 16;
  const float scale = 1 / (1 - dropout);
  float kept[4 * counters];
  for (int64_t i = first; i < first + count;) {
    const int64_t index = i / 4;
    for (int64_t c = 0; c < counters; c++) {
      const Philox4 random = philox(seed, stream, index + c);
      for (int w = 0; w < 4; w++) kept[4 * c + w] = uniform(random.word[w]) >= dropout ? scale : 0.0f;
    }
    const int64_t skip = i - index * 4, n = std::min(4 * counters - skip, first + count - i);
    mask = std::copy_n(kept + skip, n, mask);
    i += n;
  }
}

// A block of x as the adapter sees it: x itself, or a masked copy.
struct Dropped {
  const float* data;
  int64_t stride;

  operator GemmLeft() const { return {data, stride}; }
  operator GemmRight() const { return {data, stride}; }
};

template <class Op>
Dropped drop(const Op& op, int64_t row, int64_t rows, int64_t column, int64_t columns, float* scratch) {
  const int64_t stride = op.x.shape[1];
  const float* x = op.x.template as<float>() + row * stride + column;
  if (op.dropout == 0) return {x, stride};
  for (int64_t i = 0; i < rows; i++) {
    float* target = scratch + i * columns;
    dropoutMask(op.seed, op.stream, op.dropout, (row + i) * stride + column, columns, target);
    for (int64_t j = 0; j < columns; j++) target[j] *= x[i * stride + j];
  }
  return {scratch, columns};
}

// da += d^T * drop(x): each thread takes columns of x, so that every sum runs over the rows in order.
void addGradA(const LoraBackward& op, const float* d) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0];
  parallelBlocks(K, blockColumns, [&](int64_t column, int64_t columns) {
    const auto scratch = floats(blockDepth * columns);
    for (int64_t row = 0; row < T; row += blockDepth) {
      const int64_t rows = std::min(blockDepth, T - row);
      const GemmRight x = drop(op, row, rows, column, columns, scratch.get());
      gemm({r, columns, rows, {d + row * r, r, true}, x, {op.da.as<float>() + column, K}, 1, 1});
    }
  });
}

// dx += drop(d * a)
void addGradX(const LoraBackward& op, const float* d) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0];
  float* dx = op.dx.as<float>();
  const GemmRight a{op.a.as<const float>(), K};
  if (op.dropout == 0) return gemm({T, K, r, {d, r}, a, {dx, K}, 1, 1});
  parallelBlocks(T, blockRows, [&](int64_t row, int64_t rows) {
    const auto undropped = floats(rows * K), mask = floats(K);
    gemm({rows, K, r, {d + row * r, r}, a, {undropped.get(), K}});
    for (int64_t i = 0; i < rows; i++) {
      const float* source = undropped.get() + i * K;
      float* target = dx + (row + i) * K;
      dropoutMask(op.seed, op.stream, op.dropout, (row + i) * K, K, mask.get());
      for (int64_t j = 0; j < K; j++) target[j] += mask[j] * source[j];
    }
  });
}

}  // namespace

void cpu(const LoraForward& op) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0], N = op.b.shape[0];
  const GemmRight a{op.a.as<const float>(), K, true}, b{op.b.as<const float>(), r, true};
  parallelBlocks(T, blockRows, [&](int64_t row, int64_t rows) {
    const auto scratch = floats(op.dropout == 0 ? 0 : rows * K);
    const GemmLeft x = drop(op, row, rows, 0, K, scratch.get());
    float* u = op.u.as<float>() + row * r;
    gemm({rows, r, K, x, a, {u, r}});
    gemm({rows, N, r, {u, r}, b, {op.y.as<float>() + row * N, N}, op.scale, 1});
  });
}

void cpu(const LoraBackward& op) {
  const int64_t T = op.x.shape[0], r = op.a.shape[0], N = op.b.shape[0];
  const float* dy = op.dy.as<float>();
  const GemmRight b{op.b.as<const float>(), r}, u{op.u.as<const float>(), r};
  const auto d = floats(T * r);
  gemm({T, r, N, {dy, N}, b, {d.get(), r}, op.scale});
  gemm({N, r, T, {dy, N, true}, u, {op.db.as<float>(), r}, op.scale, 1});
  addGradA(op, d.get());
  addGradX(op, d.get());
}

}  // namespace loram
