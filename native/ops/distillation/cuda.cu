// One block a row, which it reads three times: the largest logits, the sums of exponentials, the gradient. Sums are in
// double, as in crossEntropy.
#include <cfloat>

#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../crossEntropy/addLosses.cuh"
#include "../ops.h"

namespace loram {
namespace {

constexpr int threads = 512;

template <class T>
__device__ float largestOf(const Matrix<T>& logits, int64_t row) {
  constexpr int width = vectorWidth<T>;
  float largest = -FLT_MAX;
  for (int64_t column = threadIdx.x * width; column < logits.columns; column += threads * width) {
    const auto x = loadFloats<width>(logits.at(row, column), logits.columns - column, -INFINITY);
#pragma unroll
    for (int i = 0; i < width; i++) largest = fmaxf(largest, x[i]);
  }
  return blockReduce(largest, -FLT_MAX, [](float a, float b) { return fmaxf(a, b); });
}

template <class T>
__global__ void __launch_bounds__(threads)
    distillRow(Matrix<T> logits, Matrix<T> teacher, const int32_t* targets, double* losses, float scale, float weight,
               float temperature, bool backward) {
  awaitPrevious();
  constexpr int width = vectorWidth<T>;
  const int64_t row = blockIdx.x;
  const float largestS = largestOf(logits, row), largestT = largestOf(teacher, row), sharpness = 1 / temperature;
  double c = 0, q = 0, p = 0, difference = 0;
  for (int64_t column = threadIdx.x * width; column < logits.columns; column += threads * width) {
    const int64_t left = logits.columns - column;
    const auto s = loadFloats<width>(logits.at(row, column), left),
               t = loadFloats<width>(teacher.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) {
      if (i >= left) continue;
      const float student = (s[i] - largestS) * sharpness, taught = (t[i] - largestT) * sharpness, e = expf(taught);
      c += expf(s[i] - largestS);
      q += expf(student);
      p += e;
      difference += static_cast<double>(e) * (taught - student);
    }
  }
  c = blockSum(c), q = blockSum(q), p = blockSum(p), difference = blockSum(difference);
  const int32_t target = targets[row];
  const double plain = 1.0 - weight, taught = static_cast<double>(weight) * temperature;
  if (threadIdx.x == 0) {
    const double crossEntropy = log(c) - (float(*logits.at(row, target)) - largestS);
    losses[row] = plain * crossEntropy + taught * temperature * (difference / p - log(p) + log(q));
  }
  if (!backward) return;
  __syncthreads();  // the target's logit has been read
  const float ofC = static_cast<float>(scale * plain / c), ofQ = static_cast<float>(scale * taught / q),
              ofP = static_cast<float>(scale * taught / p), ofTarget = static_cast<float>(scale * plain);
  for (int64_t column = threadIdx.x * width; column < logits.columns; column += threads * width) {
    const int64_t left = logits.columns - column;
    auto s = loadFloats<width>(logits.at(row, column), left);
    const auto t = loadFloats<width>(teacher.at(row, column), left);
#pragma unroll
    for (int i = 0; i < width; i++) {
      s[i] = ofC * expf(s[i] - largestS) + ofQ * expf((s[i] - largestS) * sharpness) -
             ofP * expf((t[i] - largestT) * sharpness) - (column + i == target ? ofTarget : 0);
    }
    storeFloats(logits.at(row, column), left, s);
  }
}

}  // namespace

void cuda(const Distillation& op, cudaStream_t stream) {
  const int64_t rows = op.logits.rows();
  const Scratch<double> losses(rows, stream);
  forFloat(op.logits.dtype, [&](auto type) {
    using T = decltype(type);
    launch(distillRow<T>, rows, threads, stream, Matrix<T>(op.logits), Matrix<T>(op.teacher), op.targets.as<int32_t>(),
           losses.data(), op.scale, op.weight, op.temperature, op.backward);
  });
  launch(addLosses<threads>, 1, threads, stream, rows, losses.data(), op.scale, op.loss.as<float>());
}

}  // namespace loram
