// One block a row, which it reads twice: maximum and sum of exponentials in one pass, the gradient in another.
// Sums are in double, so that a vocabulary of 128256 costs no digits. Bound by memory: 2 reads, and a write in backward.
#include <cfloat>

#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"
#include "addLosses.cuh"

namespace loram {
namespace {

constexpr int threads = 512;

// sum of exp(x - max) over the values seen so far
struct Exponentials {
  float max = -FLT_MAX;
  double sum = 0;

  __device__ void raise(float larger) {
    sum *= exp(static_cast<double>(max) - larger);
    max = larger;
  }
};

template <class T>
__device__ Exponentials ofRow(const Matrix<T>& logits, int64_t row) {
  constexpr int width = vectorWidth<T>;
  Exponentials all;
  for (int64_t column = threadIdx.x * width; column < logits.columns; column += threads * width) {
    const auto x = loadFloats<width>(logits.at(row, column), logits.columns - column, -INFINITY);
    float max = x[0], sum = 0;
#pragma unroll
    for (int i = 1; i < width; i++) max = fmaxf(max, x[i]);
    if (max > all.max) all.raise(max);
#pragma unroll
    for (int i = 0; i < width; i++) sum += expf(x[i] - all.max);
    all.sum += sum;
  }
  const float max = blockReduce(all.max, -FLT_MAX, [](float a, float b) { return fmaxf(a, b); });
  all.raise(max);
  all.sum = blockSum(all.sum);
  return all;
}

template <class T>
__global__ void __launch_bounds__(threads) crossEntropyRow(Matrix<T> logits, const int32_t* targets, double* losses,
                                                           float* tokenLoss, float scale, bool backward) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x;
  const Exponentials all = ofRow(logits, row);
  const int32_t target = targets[row];
  const double score = static_cast<double>(float(*logits.at(row, target))) - all.max;
  if (threadIdx.x == 0) {
    const double loss = log(all.sum) - score;
    losses[row] = loss;
    if (tokenLoss) tokenLoss[row] = static_cast<float>(loss);
  }
  if (!backward) return;
  __syncthreads();  // all have read the target's logit
  const float factor = static_cast<float>(scale / all.sum);
  for (int64_t column = threadIdx.x * width; column < logits.columns; column += threads * width) {
    auto x = loadFloats<width>(logits.at(row, column), logits.columns - column);
#pragma unroll
    for (int i = 0; i < width; i++) x[i] = factor * expf(x[i] - all.max);
    // p - 1 in double: near a probability of 1 the difference is all there is.
    if (target >= column && target < column + width) {
#pragma unroll
      for (int i = 0; i < width; i++) {
        if (column + i == target) x[i] = static_cast<float>(scale * (exp(score) / all.sum - 1));
      }
    }
    storeFloats(logits.at(row, column), logits.columns - column, x);
  }
}

}  // namespace

void cuda(const CrossEntropy& op, cudaStream_t stream) {
  const int64_t rows = op.logits.rows();
  const Scratch<double> losses(rows, stream);
  forFloat(op.logits.dtype, [&](auto type) {
    using T = decltype(type);
    launch(crossEntropyRow<T>, rows, threads, stream, Matrix<T>(op.logits), op.targets.as<int32_t>(), losses.data(),
           op.tokenLoss.as<float>(), op.scale, op.backward);
  });
  launch(addLosses<threads>, 1, threads, stream, rows, losses.data(), op.scale, op.loss.as<float>());
}

}  // namespace loram
