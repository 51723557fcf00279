#include <algorithm>
#include <cmath>
#include <memory>

#include "../../core/parallel.h"
#include "../../cpu/gemm.h"
#include "../../cpu/kernels.h"
#include "../ops.h"

namespace loram {
namespace {

// What one thread masks and multiplies at a time, so that the masked copy stays in its cache.
constexpr int64_t blockRows = 64, blockColumns = 64, blockDepth = 256;

std::unique_ptr<float[]> floats(int64_t count) { return std::unique_ptr<float[]>(new float[count]); }

// Calls body(i, size, mask) for pieces of the elements first .. first + count - 1, with i counting from 0; mask[j] is
// what dropout multiplies element i + j of them by.
template <class Op, class Body>
void forMask(const Op& op, int64_t first, int64_t count, Body body) {
  constexpr int64_t piece = 64;
  // uniform(word) = (word >> 8) / 2^24 >= dropout, in integers; the product is exact in double.
  const auto threshold = static_cast<uint32_t>(std::ceil(op.dropout * double{1 << 24}));
  float mask[piece];
  for (int64_t i = 0; i < count;) {
    const int64_t skip = (first + i) % 4, size = std::min(piece - skip, count - i);
    kernels().dropoutMask(op.seed, op.stream, (first + i) / 4, threshold, 1 / (1 - op.dropout), mask);
    body(i, size, mask + skip);
    i += size;
  }
}

// A block of x as the adapter sees it: x itself, or a masked copy.
struct Dropped {
  const float* data;
  int64_t stride;

  operator FloatMatrix() const { return {data, stride}; }
  operator GemmRight() const { return {data, stride}; }
};

template <class Op>
Dropped drop(const Op& op, int64_t row, int64_t rows, int64_t column, int64_t columns, float* scratch) {
  const int64_t stride = op.x.shape[1];
  const float* x = op.x.template as<float>() + row * stride + column;
  if (op.dropout == 0) return {x, stride};
  for (int64_t i = 0; i < rows; i++) {
    const float* source = x + i * stride;
    float* target = scratch + i * columns;
    forMask(op, (row + i) * stride + column, columns, [&](int64_t begin, int64_t size, const float* mask) {
      for (int64_t j = 0; j < size; j++) target[begin + j] = mask[j] * source[begin + j];
    });
  }
  return {scratch, columns};
}

// da += d^T * drop(x): each thread takes columns of x, so that every sum runs over the rows in order.
void addGradA(const LoraInputBackward& op) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0];
  parallelBlocks(K, blockColumns, [&](int64_t column, int64_t columns) {
    const auto scratch = floats(blockDepth * columns);
    for (int64_t row = 0; row < T; row += blockDepth) {
      const int64_t rows = std::min(blockDepth, T - row);
      const GemmRight x = drop(op, row, rows, column, columns, scratch.get());
      const float* d = op.d.as<float>() + row * op.d.pitch;
      gemm({r, columns, rows, {d, op.d.pitch, true}, x, {op.da.as<float>() + column, K}, 1, 1});
    }
  });
}

// dx += drop(d * a)
void addGradX(const LoraInputBackward& op) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0];
  const FloatMatrix d{op.d.as<float>(), op.d.pitch};
  float* dx = op.dx.as<float>();
  const GemmRight a{op.a.as<const float>(), K};
  if (op.dropout == 0) return gemm({T, K, r, d, a, {dx, K}, 1, 1});
  parallelBlocks(T, blockRows, [&](int64_t row, int64_t rows) {
    const auto undropped = floats(rows * K);
    gemm({rows, K, r, {d.data + row * d.stride, d.stride}, a, {undropped.get(), K}});
    for (int64_t i = 0; i < rows; i++) {
      const float* source = undropped.get() + i * K;
      float* target = dx + (row + i) * K;
      forMask(op, (row + i) * K, K, [&](int64_t begin, int64_t size, const float* mask) {
        for (int64_t j = 0; j < size; j++) target[begin + j] += mask[j] * source[begin + j];
      });
    }
  });
}

}  // namespace

void cpu(const LoraForward& op) {
  const int64_t T = op.x.shape[0], K = op.x.shape[1], r = op.a.shape[0], N = op.b.shape[0];
  const GemmRight a{op.a.as<const float>(), K, true}, b{op.b.as<const float>(), r, true};
  parallelBlocks(T, blockRows, [&](int64_t row, int64_t rows) {
    const auto scratch = floats(op.dropout == 0 ? 0 : rows * K);
    const FloatMatrix x = drop(op, row, rows, 0, K, scratch.get());
    float* u = op.u.as<float>() + row * op.u.pitch;
    gemm({rows, r, K, x, a, {u, op.u.pitch}, op.scale});
    if (op.y) gemm({rows, N, r, {u, op.u.pitch}, b, {op.y.as<float>() + row * N, N}, 1, 1});
  });
}

void cpu(const LoraOutputBackward& op) {
  const int64_t T = op.dy.shape[0], N = op.dy.shape[1], r = op.b.shape[1];
  const float* dy = op.dy.as<float>();
  const GemmRight b{op.b.as<const float>(), r}, u{op.u.as<const float>(), op.u.pitch};
  gemm({T, r, N, {dy, N}, b, {op.d.as<float>(), op.d.pitch}, op.scale});
  gemm({N, r, T, {dy, N, true}, u, {op.db.as<float>(), r}, 1, 1});
}

void cpu(const LoraInputBackward& op) {
  addGradA(op);
  if (op.dx) addGradX(op);
}

}  // namespace loram
