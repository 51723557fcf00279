#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

template <class T>
void addBias(const AddBias& op, cudaStream_t stream) {
  constexpr int width = vectorWidth<T>;
  const Matrix<T> y(op.y);
  const float* bias = op.bias.as<float>();
  elementwise<width>(y.rows, y.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    auto values = loadFloats<width>(y.at(row, column), left);
    const auto added = load<width>(bias + column, left);
#pragma unroll
    for (int i = 0; i < width; i++) values[i] += added[i];
    storeFloats(y.at(row, column), left, values);
  });
}

template <class T>
void addBiasBackward(const AddBiasBackward& op, cudaStream_t stream) {
  const Matrix<T> dy(op.dy);
  addColumnSums(dy.rows, dy.columns, op.dbias.as<float>(), stream, [=] __device__(int64_t row, int64_t column) {
    return static_cast<double>(float(*dy.at(row, column)));
  });
}

}  // namespace

void cuda(const AddBias& op, cudaStream_t stream) {
  forFloat(op.y.dtype, [&](auto type) { addBias<decltype(type)>(op, stream); });
}

void cuda(const AddBiasBackward& op, cudaStream_t stream) {
  forFloat(op.dy.dtype, [&](auto type) { addBiasBackward<decltype(type)>(op, stream); });
}

}  // namespace loram
