#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int threads = 256;

// |w * grad|, or its square, in double: the product of two floats is exact there.
template <class T>
struct Score {
  Matrix<T> w;
  Matrix<float> grad;
  bool squared;

  __device__ double operator()(int64_t row, int64_t column) const {
    const double weight = float(*w.at(row, column));
    const double score = grad.data ? weight * *grad.at(row, column) : weight;
    return squared ? score * score : fabs(score);
  }
};

template <class T>
__global__ void __launch_bounds__(threads) addRowSums(int64_t columns, float* sums, Score<T> score) {
  awaitPrevious();
  double sum = 0;
  for (int64_t column = threadIdx.x; column < columns; column += threads) sum += score(blockIdx.x, column);
  sum = blockSum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] += static_cast<float>(sum);
}

}  // namespace

void cuda(const Importance& op, cudaStream_t stream) {
  const int64_t rows = op.w.rows(), columns = op.w.columns();
  forFloat(op.w.dtype, [&](auto type) {
    using T = decltype(type);
    const Score<T> score{Matrix<T>(op.w), Matrix<float>(op.grad), op.squared};
    if (op.rowSums) launch(addRowSums<T>, rows, threads, stream, columns, op.rowSums.as<float>(), score);
    if (op.columnSums) addColumnSums(rows, columns, op.columnSums.as<float>(), stream, score);
  });
}

}  // namespace loram
