#include <algorithm>
#include <type_traits>

#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

template <class From, class To>
void convert(const Cast& op, cudaStream_t stream) {
  constexpr int width = std::min(vectorWidth<From>, vectorWidth<To>);
  const Matrix<From> x(op.x);
  const Matrix<To> y(op.y);
  elementwise<width>(x.rows, x.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    storeFloats(y.at(row, column), left, loadFloats<width>(x.at(row, column), left));
  });
}

// Infinities and NaN are the values with every bit of the exponent set.
template <class T>
__device__ bool isFinite(T value) {
  if constexpr (std::is_same_v<T, float>) return (__float_as_uint(value) & 0x7f800000) != 0x7f800000;
  constexpr uint16_t exponent = std::is_same_v<T, __half> ? 0x7c00 : 0x7f80;
  uint16_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (bits & exponent) != exponent;
}

// Whole numbers: their sum and minimum do not depend on the order, so atomics are exact.
template <class T>
void countNonFinite(const CountNonFinite& op, cudaStream_t stream) {
  constexpr int width = vectorWidth<T>;
  const Matrix<T> x(op.x);
  auto* count = op.count.as<unsigned long long>();
  auto* first = count + 1;
  check(cudaMemsetAsync(count, 0, sizeof *count, stream));
  check(cudaMemsetAsync(first, 0xff, sizeof *first, stream));  // -1, and the largest unsigned number
  elementwise<width>(x.rows, x.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    const auto values = load<width>(x.at(row, column), left);
    for (int i = 0; i < width; i++) {
      if (isFinite(values[i])) continue;
      atomicAdd(count, 1ull);
      atomicMin(first, static_cast<unsigned long long>(row * x.columns + column + i));
    }
  });
}

// From one dtype to the same: one run where rows lie as far apart in both, or there are not two.
void copy(const Cast& op, cudaStream_t stream) {
  const Tensor &x = op.x, &y = op.y;
  constexpr auto kind = cudaMemcpyDeviceToDevice;
  const size_t size = bytesPerElement(x.dtype);
  check(x.pitch == y.pitch || x.rows() < 2 ? cudaMemcpyAsync(y.data, x.data, x.bytes(), kind, stream)
                                           : cudaMemcpy2DAsync(y.data, y.pitch * size, x.data, x.pitch * size,
                                                               x.columns() * size, x.rows(), kind, stream));
}

}  // namespace

void cuda(const Cast& op, cudaStream_t stream) {
  if (op.x.dtype == op.y.dtype) return copy(op, stream);
  forDtype(op.x.dtype, [&](auto from) {
    forDtype(op.y.dtype, [&](auto to) { convert<decltype(from), decltype(to)>(op, stream); });
  });
}

void cuda(const CountNonFinite& op, cudaStream_t stream) {
  forDtype(op.x.dtype, [&](auto type) { countNonFinite<decltype(type)>(op, stream); });
}

}  // namespace loram
