#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

template <class From, class To>
void copyRows(const Embedding& op, cudaStream_t stream) {
  constexpr int width = vectorWidth<To>;
  const Matrix<From> weight(op.weight);
  const Matrix<To> y(op.y);
  const int32_t* ids = op.ids.as<int32_t>();
  elementwise<width>(y.rows, y.columns, stream, [=] __device__(int64_t row, int64_t column, int64_t left) {
    storeFloats(y.at(row, column), left, loadFloats<width>(weight.at(ids[row], column), left));
  });
}

constexpr int threads = 128;

// One block for a token and a group of columns. The first token of an id adds the rows of all that have it, in order.
template <class T>
__global__ void __launch_bounds__(threads) addRows(Matrix<T> dy, const int32_t* ids, Matrix<float> dweight) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  const int64_t tokens = dy.rows, token = blockIdx.x;
  const int32_t id = ids[token];
  bool seen = false;
  for (int64_t i = threadIdx.x; i < token; i += threads) seen |= ids[i] == id;
  if (__syncthreads_or(seen)) return;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x) * width;
  const int64_t left = dy.columns - column;
  if (left <= 0) return;
  auto sum = load<width>(dweight.at(id, column), left);
  for (int64_t i = token; i < tokens; i++) {
    if (ids[i] != id) continue;
    const auto row = loadFloats<width>(dy.at(i, column), left);
#pragma unroll
    for (int k = 0; k < width; k++) sum[k] += row[k];
  }
  store(dweight.at(id, column), left, sum);
}

}  // namespace

void cuda(const Embedding& op, cudaStream_t stream) {
  forFloat(op.weight.dtype, [&](auto from) {
    forFloat(op.y.dtype, [&](auto to) { copyRows<decltype(from), decltype(to)>(op, stream); });
  });
}

void cuda(const EmbeddingBackward& op, cudaStream_t stream) {
  forFloat(op.dy.dtype, [&](auto type) {
    using T = decltype(type);
    const dim3 blocks(op.dy.rows(), ceilDiv<int64_t>(op.dy.columns(), threads * vectorWidth<T>));
    launch(addRows<T>, blocks, threads, stream, Matrix<T>(op.dy), op.ids.as<int32_t>(), Matrix<float>(op.dweight));
  });
}

}  // namespace loram
