// One block a row, which it reads twice: the second time from cache. Sums in f32. Bound by memory.
#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int threads = 256;

// Calls body(column, left) for the vectors of a row that this thread takes.
template <int width, class Body>
__device__ void eachVector(int64_t columns, Body body) {
  for (int64_t column = threadIdx.x * width; column < columns; column += threads * width) {
    body(column, columns - column);
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    forward(Matrix<T> x, const float* weight, Matrix<T> y, float* rstd, float eps) {
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x, dim = x.columns;
  float squares = 0;
  eachVector<width>(dim, [&](int64_t column, int64_t left) {
    const auto values = loadFloats<width>(x.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) squares += values[i] * values[i];
  });
  const float r = 1 / sqrtf(blockSum(squares) / dim + eps);
  eachVector<width>(dim, [&](int64_t column, int64_t left) {
    auto values = loadFloats<width>(x.at(row, column), left);
    const auto w = load<width>(weight + column, left);
#pragma unroll
    for (int i = 0; i < width; i++) values[i] *= r * w[i];
    storeFloats(y.at(row, column), left, values);
  });
  if (threadIdx.x == 0) rstd[row] = r;
}

template <class T>
__global__ void __launch_bounds__(threads)
    backward(Matrix<T> dy, Matrix<T> x, const float* weight, const float* rstd, Matrix<T> dx) {
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x, dim = x.columns;
  const float r = rstd[row];
  float dot = 0;
  eachVector<width>(dim, [&](int64_t column, int64_t left) {
    const auto d = loadFloats<width>(dy.at(row, column), left), values = loadFloats<width>(x.at(row, column), left);
    const auto w = load<width>(weight + column, left);
#pragma unroll
    for (int i = 0; i < width; i++) dot += d[i] * w[i] * (values[i] * r);
  });
  const float mean = blockSum(dot) / dim;
  eachVector<width>(dim, [&](int64_t column, int64_t left) {
    const auto d = loadFloats<width>(dy.at(row, column), left), values = loadFloats<width>(x.at(row, column), left);
    const auto w = load<width>(weight + column, left);
    auto sum = loadFloats<width>(dx.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) sum[i] += r * (d[i] * w[i] - values[i] * r * mean);
    storeFloats(dx.at(row, column), left, sum);
  });
}

template <class T>
void addGradWeight(const RmsNormBackward& op, cudaStream_t stream) {
  const Matrix<T> dy(op.dy), x(op.x);
  const float* rstd = op.rstd.as<float>();
  addColumnSums(x.rows, x.columns, op.dweight.as<float>(), stream, [=] __device__(int64_t row, int64_t column) {
    return static_cast<double>(float(*dy.at(row, column)) * (float(*x.at(row, column)) * rstd[row]));
  });
}

}  // namespace

void cuda(const RmsNorm& op, cudaStream_t stream) {
  forFloat(op.x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(forward<T>, op.x.rows(), threads, stream, Matrix<T>(op.x), op.weight.as<float>(), Matrix<T>(op.y),
           op.rstd.as<float>(), op.eps);
  });
}

void cuda(const RmsNormBackward& op, cudaStream_t stream) {
  forFloat(op.x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(backward<T>, op.x.rows(), threads, stream, Matrix<T>(op.dy), Matrix<T>(op.x), op.weight.as<float>(),
           op.rstd.as<float>(), Matrix<T>(op.dx));
    if (op.dweight) addGradWeight<T>(op, stream);
  });
}

}  // namespace loram
