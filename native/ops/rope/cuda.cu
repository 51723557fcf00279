// One block a token: sines and cosines in double, once for all of its heads, then the rotation in f32. Bound by memory.
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int threads = 256, maxHalf = 512;

template <class T>
__global__ void __launch_bounds__(threads)
    rotate(Matrix<T> x, const int32_t* positions, const float* inverseFrequencies, int half, bool inverse) {
  constexpr int width = vectorWidth<T>;
  __shared__ alignas(16) float cosine[maxHalf], sine[maxHalf];
  const int64_t row = blockIdx.x;
  for (int j = threadIdx.x; j < half; j += threads) {
    double s, c;
    sincos(static_cast<double>(positions[row]) * inverseFrequencies[j], &s, &c);
    cosine[j] = static_cast<float>(c);
    sine[j] = static_cast<float>(inverse ? -s : s);
  }
  __syncthreads();
  const int ofHead = ceilDiv(half, width), heads = x.columns / (2 * half);
  for (int i = threadIdx.x; i < heads * ofHead; i += threads) {
    const int j = i % ofHead * width, left = half - j;
    T* const first = x.at(row, i / ofHead * 2 * half + j);
    const auto x1 = loadFloats<width>(first, left), x2 = loadFloats<width>(first + half, left);
    const auto c = load<width>(cosine + j, left), s = load<width>(sine + j, left);
    Vector<float, width> y1, y2;
#pragma unroll
    for (int k = 0; k < width; k++) {
      y1[k] = x1[k] * c[k] - x2[k] * s[k];
      y2[k] = x2[k] * c[k] + x1[k] * s[k];
    }
    storeFloats(first, left, y1);
    storeFloats(first + half, left, y2);
  }
}

}  // namespace

void cuda(const Rope& op, cudaStream_t stream) {
  const int half = static_cast<int>(op.inverseFrequencies.elements());
  if (half > maxHalf) throw std::invalid_argument("rope: a head has at most 1024 dimensions");
  forFloat(op.x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(rotate<T>, op.x.rows(), threads, stream, Matrix<T>(op.x), op.positions.as<int32_t>(),
           op.inverseFrequencies.as<float>(), half, op.inverse);
  });
}

}  // namespace loram
