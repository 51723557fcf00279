// Every element on its own, in f32 between loads and stores. Bound by memory: 3 tensors forward, 5 backward.
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

// By the GPU's own exponential and quotient, a few units of f32 off, where results are rounded to 16 bits: exact ones take
// more time than the memory.
template <class T>
__device__ float sigmoid(float x) {
  if constexpr (sizeof(T) == 2) return __fdividef(1, 1 + __expf(-x));
  return 1 / (1 + expf(-x));
}

template <class T>
void swiglu(const Swiglu& op, cudaStream_t stream) {
  constexpr int width = vectorWidth<T>;
  const Matrix<T> gate(op.gate), up(op.up), y(op.y);
  elementwise<width>(y.rows, y.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    auto g = loadFloats<width>(gate.at(row, column), left);
    const auto u = loadFloats<width>(up.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) g[i] = g[i] * sigmoid<T>(g[i]) * u[i];
    storeFloats(y.at(row, column), left, g);
  });
}

template <class T>
void swigluBackward(const SwigluBackward& op, cudaStream_t stream) {
  constexpr int width = vectorWidth<T>;
  const Matrix<T> dy(op.dy), gate(op.gate), up(op.up), dgate(op.dgate), dup(op.dup);
  elementwise<width>(dy.rows, dy.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    auto g = loadFloats<width>(gate.at(row, column), left);
    auto u = loadFloats<width>(up.at(row, column), left);
    const auto d = loadFloats<width>(dy.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) {
      const float s = sigmoid<T>(g[i]), silu = g[i] * s;
      g[i] = d[i] * u[i] * s * (1 + g[i] * (1 - s));
      u[i] = d[i] * silu;
    }
    storeFloats(dgate.at(row, column), left, g);
    storeFloats(dup.at(row, column), left, u);
  });
}

}  // namespace

void cuda(const Swiglu& op, cudaStream_t stream) {
  forFloat(op.y.dtype, [&](auto type) { swiglu<decltype(type)>(op, stream); });
}
void cuda(const SwigluBackward& op, cudaStream_t stream) {
  forFloat(op.dy.dtype, [&](auto type) { swigluBackward<decltype(type)>(op, stream); });
}

}  // namespace loram
