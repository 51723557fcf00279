// One block a vector, which it reads twice: the second time from cache. Sums in f32. Bound by memory.
#include <algorithm>

#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int maxThreads = 256;

// Calls body(column, i, left) for the pieces of a vector that this thread takes: from `i` on, at `column` of its row,
// which holds so many vectors.
template <int width, class Body>
__device__ void eachPiece(int64_t dim, unsigned groups, Body body) {
  const int64_t first = blockIdx.x % groups * dim;
  for (int64_t i = threadIdx.x * width; i < dim; i += blockDim.x * width) body(first + i, i, dim - i);
}

template <class T>
__global__ void __launch_bounds__(maxThreads) forward(int64_t dim, unsigned groups, Matrix<T> x, const float* weight,
                                                      Matrix<T> y, float* rstd, Matrix<T> copy, float eps) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x / groups;
  float squares = 0;
  eachPiece<width>(dim, groups, [&](int64_t column, int64_t, int64_t left) {
    const auto values = loadFloats<width>(x.at(row, column), left);
#pragma unroll
    for (int k = 0; k < width; k++) squares += values[k] * values[k];
  });
  const float r = 1 / sqrtf(blockSum(squares) / dim + eps);
  eachPiece<width>(dim, groups, [&](int64_t column, int64_t i, int64_t left) {
    auto values = loadFloats<width>(x.at(row, column), left);
    if (copy.data) storeFloats(copy.at(row, column), left, values);
    const auto w = load<width>(weight + i, left);
#pragma unroll
    for (int k = 0; k < width; k++) values[k] *= r * w[k];
    storeFloats(y.at(row, column), left, values);
  });
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

template <class T>
__global__ void __launch_bounds__(maxThreads) backward(int64_t dim, unsigned groups, Matrix<T> dy, Matrix<T> x,
                                                       const float* weight, const float* rstd, Matrix<T> dx) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x / groups;
  const float r = rstd[blockIdx.x];
  float dot = 0;
  eachPiece<width>(dim, groups, [&](int64_t column, int64_t i, int64_t left) {
    const auto d = loadFloats<width>(dy.at(row, column), left), values = loadFloats<width>(x.at(row, column), left);
    const auto w = load<width>(weight + i, left);
#pragma unroll
    for (int k = 0; k < width; k++) dot += d[k] * w[k] * (values[k] * r);
  });
  const float mean = blockSum(dot) / dim;
  eachPiece<width>(dim, groups, [&](int64_t column, int64_t i, int64_t left) {
    const auto d = loadFloats<width>(dy.at(row, column), left), values = loadFloats<width>(x.at(row, column), left);
    const auto w = load<width>(weight + i, left);
    auto sum = loadFloats<width>(dx.at(row, column), left);
#pragma unroll
    for (int k = 0; k < width; k++) sum[k] += r * (d[k] * w[k] - values[k] * r * mean);
    storeFloats(dx.at(row, column), left, sum);
  });
}

// A block for each vector, of no more warps than it can feed.
template <class T, class... Parameters, class... Arguments>
void launchForVectors(void (*kernel)(int64_t, unsigned, Matrix<T>, Parameters...), const Tensor& x, int64_t dim,
                      cudaStream_t stream, Arguments... arguments) {
  const auto warps =
      static_cast<unsigned>(std::min<int64_t>(ceilDiv<int64_t>(dim, 32 * vectorWidth<T>), maxThreads / 32));
  const auto groups = static_cast<unsigned>(x.columns() / dim);
  launch(kernel, static_cast<unsigned>(x.rows() * groups), 32 * warps, stream, dim, groups, arguments...);
}

template <class T>
void addGradWeight(const RmsNormBackward& op, cudaStream_t stream) {
  const Matrix<T> dy(op.dy), x(op.x);
  const float* rstd = op.rstd.as<float>();
  const auto dim = op.weight.elements();
  const auto groups = static_cast<uint32_t>(x.columns / dim);
  addColumnSums(op.rstd.elements(), dim, op.dweight.as<float>(), stream, [=] __device__(int64_t vector, int64_t i) {
    const uint32_t row = static_cast<uint32_t>(vector) / groups;
    const int64_t column = (vector - row * groups) * dim + i;
    return static_cast<double>(float(*dy.at(row, column)) * (float(*x.at(row, column)) * rstd[vector]));
  });
}

}  // namespace

void cuda(const RmsNorm& op, cudaStream_t stream) {
  forFloat(op.x.dtype, [&](auto type) {
    using T = decltype(type);
    launchForVectors(forward<T>, op.x, op.weight.elements(), stream, Matrix<T>(op.x), op.weight.as<float>(),
                     Matrix<T>(op.y), op.rstd.as<float>(), Matrix<T>(op.copy), op.eps);
  });
}

void cuda(const RmsNormBackward& op, cudaStream_t stream) {
  forFloat(op.x.dtype, [&](auto type) {
    using T = decltype(type);
    launchForVectors(backward<T>, op.x, op.weight.elements(), stream, Matrix<T>(op.dy), Matrix<T>(op.x),
                     op.weight.as<float>(), op.rstd.as<float>(), Matrix<T>(op.dx));
    if (op.dweight) addGradWeight<T>(op, stream);
  });
}

}  // namespace loram
