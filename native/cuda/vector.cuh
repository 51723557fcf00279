#pragma once
#include <cstdint>

#include "dtype.cuh"
#include "launch.cuh"

namespace loram {

// Elements of T in a 16-byte access.
template <class T>
constexpr int vectorWidth = 16 / sizeof(T);

template <class T, int width>
struct alignas(sizeof(T) * width <= 16 ? sizeof(T) * width : 16) Vector {
  T value[width];

  __device__ T& operator[](int i) { return value[i]; }
  __device__ const T& operator[](int i) const { return value[i]; }
};

// The next `width` elements of a row that has `left` more; `missing` stands for those past its end, which are not read.
template <int width, class T>
__device__ Vector<T, width> load(const T* source, int64_t left, T missing = T{}) {
  using Whole = Vector<T, width>;
  if (left >= width && reinterpret_cast<uintptr_t>(source) % alignof(Whole) == 0) {
    return *reinterpret_cast<const Whole*>(source);
  }
  Whole part;
#pragma unroll
  for (int i = 0; i < width; i++) part[i] = i < left ? source[i] : missing;
  return part;
}

template <int width, class T>
__device__ void store(T* target, int64_t left, const Vector<T, width>& values) {
  using Whole = Vector<T, width>;
  if (left >= width && reinterpret_cast<uintptr_t>(target) % alignof(Whole) == 0) {
    *reinterpret_cast<Whole*>(target) = values;
    return;
  }
#pragma unroll
  for (int i = 0; i < width; i++) {
    if (i < left) target[i] = values[i];
  }
}

// The same for arithmetic, which is in float whatever the tensor holds.
template <int width, class T>
__device__ Vector<float, width> loadFloats(const T* source, int64_t left, float missing = 0) {
  const auto values = load<width>(source, left, T(missing));
  Vector<float, width> floats;
#pragma unroll
  for (int i = 0; i < width; i++) floats[i] = float(values[i]);
  return floats;
}

template <int width, class T>
__device__ void storeFloats(T* target, int64_t left, const Vector<float, width>& floats) {
  Vector<T, width> values;
#pragma unroll
  for (int i = 0; i < width; i++) values[i] = T(floats[i]);
  store(target, left, values);
}

// A matrix in device memory.
template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns, pitch;

  explicit Matrix(const Tensor& tensor)
      : data(tensor.as<T>()), rows(tensor.rows()), columns(tensor.columns()), pitch(tensor.pitch) {}

  __device__ T* at(int64_t row, int64_t column) const { return data + row * pitch + column; }
};

template <int width, class Body>
__global__ void __launch_bounds__(256) elementwiseKernel(int64_t rows, int64_t columns, Body body) {
  awaitPrevious();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x * width;
  for (int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * width; column < columns;
       column += step) {
    body(row, column, columns - column);
  }
}

// Calls body(row, column, left) on the GPU for every `width`-th column of every row; `left` columns of the row are left.
template <int width, class Body>
void elementwise(int64_t rows, int64_t columns, cudaStream_t stream, Body body) {
  constexpr int threads = 256, maxGridY = 65535;
  int across = 1;
  while (across < threads && across * width < columns) across *= 2;
  const int64_t tiles = ceilDiv<int64_t>(columns, across * width);
  const dim3 blocks(ceilDiv<int64_t>(rows, threads / across), tiles < maxGridY ? tiles : maxGridY);
  launch(elementwiseKernel<width, Body>, blocks, dim3(across, threads / across), stream, rows, columns, body);
}

}  // namespace loram
