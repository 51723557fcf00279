// Flat f32 arrays, four elements a thread. Bound by memory: AdamW reads 16 bytes a parameter and writes 12.
#include <algorithm>

#include "../../cuda/reduce.cuh"
#include "../../cuda/vector.cuh"
#include "../ops.h"
#include "adamFactors.h"

namespace loram {
namespace {

constexpr int width = vectorWidth<float>;

void update(const AdamW& op, cudaStream_t stream) {
  const AdamFactors f(op);
  float *parameters = op.parameters.as<float>(), *firstMoment = op.firstMoment.as<float>(),
        *secondMoment = op.secondMoment.as<float>();
  const float* grads = op.grads.as<float>();
  elementwise<width>(1, op.parameters.elements(), stream, [=] __device__(int64_t, int64_t at, int64_t left) {
    auto p = load<width>(parameters + at, left), m = load<width>(firstMoment + at, left),
         v = load<width>(secondMoment + at, left);
    const auto g = load<width>(grads + at, left);
#pragma unroll
    for (int i = 0; i < width; i++) {
      m[i] += f.takeFirst * (g[i] - m[i]);
      v[i] = v[i] * f.beta2 + f.takeSecond * g[i] * g[i];
      p[i] = p[i] * f.decay + f.stepSize * m[i] / (sqrtf(v[i]) / f.rootCorrection + f.eps);
    }
    store(parameters + at, left, p);
    store(firstMoment + at, left, m);
    store(secondMoment + at, left, v);
  });
}

constexpr int threads = 256, maxBlocks = 1024;

__global__ void __launch_bounds__(threads) sumSquares(int64_t n, const float* x, double* partials) {
  awaitPrevious();
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads * width;
  for (int64_t at = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * width; at < n; at += step) {
    const auto values = load<width>(x + at, n - at);
#pragma unroll
    for (int i = 0; i < width; i++) sum += static_cast<double>(values[i]) * values[i];
  }
  sum = blockSum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(threads) rootOfSum(int count, const double* partials, float* norm) {
  awaitPrevious();
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += threads) sum += partials[i];
  sum = blockSum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

void scaleTo(const ClipGradNorm& op, cudaStream_t stream) {
  float* grads = op.grads.as<float>();
  const float *norm = op.norm.as<float>(), maxNorm = op.maxNorm;
  elementwise<width>(1, op.grads.elements(), stream, [=] __device__(int64_t, int64_t at, int64_t left) {
    const float factor = maxNorm / (*norm + 1e-6f);
    if (factor >= 1) return;
    auto values = load<width>(grads + at, left);
#pragma unroll
    for (int i = 0; i < width; i++) values[i] *= factor;
    store(grads + at, left, values);
  });
}

}  // namespace

void cuda(const AdamW& op, cudaStream_t stream) { update(op, stream); }

void cuda(const KeepZeros& op, cudaStream_t stream) {
  const float* parameters = op.parameters.as<float>();
  float* grads = op.grads.as<float>();
  elementwise<width>(1, op.grads.elements(), stream, [=] __device__(int64_t, int64_t at, int64_t left) {
    const auto p = load<width>(parameters + at, left);
    auto g = load<width>(grads + at, left);
#pragma unroll
    for (int i = 0; i < width; i++) g[i] = p[i] == 0 ? 0 : g[i];
    store(grads + at, left, g);
  });
}

void cuda(const ClipGradNorm& op, cudaStream_t stream) {
  const int64_t n = op.grads.elements();
  // The number of partial sums follows from n alone, so the norm does not depend on the GPU.
  const int blocks = static_cast<int>(std::min<int64_t>(maxBlocks, ceilDiv<int64_t>(n, threads * width)));
  const Scratch<double> partials(blocks, stream);
  launch(sumSquares, blocks, threads, stream, n, op.grads.as<const float>(), partials.data());
  launch(rootOfSum, 1, threads, stream, blocks, partials.data(), op.norm.as<float>());
  if (op.maxNorm != 0) scaleTo(op, stream);
}

}  // namespace loram
