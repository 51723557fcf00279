// A block takes as many tokens as have a sine and a cosine for each of its threads: these in double, once for all heads, then
// the rotation in f32. Bound by memory where heads are many.
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int threads = 256, maxHalf = 512;

__host__ __device__ constexpr int rowsOfBlock(int angles) { return angles < threads ? threads / angles : 1; }

template <class T>
__global__ void __launch_bounds__(threads) rotate(Matrix<T> q, Matrix<T> k, const int32_t* positions,
                                                  const float* inverseFrequencies, int half, bool inverse) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  __shared__ alignas(16) float cosine[maxHalf], sine[maxHalf];
  const int ofHead = ceilDiv(half, width), pitch = ofHead * width, mostRows = rowsOfBlock(pitch);
  const int64_t firstRow = int64_t{blockIdx.x} * mostRows;
  const int rows = static_cast<int>(min(q.rows - firstRow, int64_t{mostRows}));
  for (int i = threadIdx.x; i < rows * half; i += threads) {
    const int row = i / half, j = i % half;
    double s, c;
    sincos(static_cast<double>(positions[firstRow + row]) * inverseFrequencies[j], &s, &c);
    cosine[row * pitch + j] = static_cast<float>(c);
    sine[row * pitch + j] = static_cast<float>(inverse ? -s : s);
  }
  __syncthreads();
  const int queries = q.columns / (2 * half), heads = queries + k.columns / (2 * half);
  for (int i = threadIdx.x; i < rows * heads * ofHead; i += threads) {
    const int row = i / (heads * ofHead), head = i / ofHead % heads, j = i % ofHead * width, left = half - j;
    T* const first = head < queries ? q.at(firstRow + row, head * 2 * half + j)
                                    : k.at(firstRow + row, (head - queries) * 2 * half + j);
    const auto x1 = loadFloats<width>(first, left), x2 = loadFloats<width>(first + half, left);
    const auto c = load<width>(cosine + row * pitch + j, left), s = load<width>(sine + row * pitch + j, left);
    Vector<float, width> y1, y2;
#pragma unroll
    for (int at = 0; at < width; at++) {
      y1[at] = x1[at] * c[at] - x2[at] * s[at];
      y2[at] = x2[at] * c[at] + x1[at] * s[at];
    }
    storeFloats(first, left, y1);
    storeFloats(first + half, left, y2);
  }
}

}  // namespace

void cuda(const Rope& op, cudaStream_t stream) {
  const int half = static_cast<int>(op.inverseFrequencies.elements());
  if (half > maxHalf) throw std::invalid_argument("rope: a head has at most 1024 dimensions");
  forFloat(op.q.dtype, [&](auto type) {
    using T = decltype(type);
    const int angles = ceilDiv(half, vectorWidth<T>) * vectorWidth<T>;
    launch(rotate<T>, ceilDiv(op.q.rows(), rowsOfBlock(angles)), threads, stream, Matrix<T>(op.q), Matrix<T>(op.k),
           op.positions.as<int32_t>(), op.inverseFrequencies.as<float>(), half, op.inverse);
  });
}

}  // namespace loram
