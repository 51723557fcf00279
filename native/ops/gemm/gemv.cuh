// y[M,N] = alpha * x[M,K] * w[N,K]^T + beta * y for M <= 16: decoding, where the time is that of reading w
// Layout   x bf16, w bf16 or NF4; a warp takes w as mma's A operand, 16 rows of it, and x^T as B, 8 tokens a tile
// Order    the sum's order is free as long as both operands keep to it: a lane reads 8 neighbours at a time, so that
//          what it decodes is a fragment as it is
// Blocks   16 rows of w; 8 warps share K in steps of 128 and add up in order: two runs give the same bits
// Floor    bytes of w / memory bandwidth
#pragma once
#include "../../cuda/device.cuh"
#include "../../cuda/launch.cuh"
#include "operands.cuh"

namespace loram {

constexpr int gemvWarps = 8, gemvDepth = 128, gemvMaxTokens = 16;

// y from the warps' sums, for 16 of its columns. Waits for all threads before and after.
template <int tokens>
__device__ void storeSums(const float (&sums)[gemvWarps][tokens][17], int firstColumn, const Output& y) {
  __syncthreads();
  const int token = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
  if (token < tokens) {
    float sum[8] = {};
    for (int i = 0; i < gemvWarps; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] += sums[i][token][column + j];
    }
    y.store(token, firstColumn + column, sum);
  }
  __syncthreads();
}

template <class Source, int tokenTiles>
__global__ void __launch_bounds__(32 * gemvWarps, tokenTiles == 1 ? 2 : 1)
    gemv(const Source w, const Bf16Matrix x, const Output y) {
  awaitPrevious();
  constexpr int rows = 16, tokens = 8 * tokenTiles, step = gemvWarps * gemvDepth;
  __shared__ float sums[gemvWarps][tokens][rows + 1];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int firstRow = blockIdx.x * rows + g;
  typename Source::Fragment upper[4], lower[4];
  const auto fetch = [&](int k) { w.fetchRun(upper, firstRow, k, t), w.fetchRun(lower, firstRow + 8, k, t); };
  fetch(warp * gemvDepth);
  w.prepare();
  __syncthreads();

  float c[tokenTiles][4] = {};
  for (int k = warp * gemvDepth; k < x.columns; k += step) {
    typename Source::Fragment rowsAbove[4], rowsBelow[4];
#pragma unroll
    for (int j = 0; j < 4; j++) rowsAbove[j] = upper[j], rowsBelow[j] = lower[j];
    fetch(k + step);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int column = k + Source::offset(t, j);
      const uint4 a = w.decode(rowsAbove[j], 0, column), b = w.decode(rowsBelow[j], 0, column);
#pragma unroll
      for (int n = 0; n < tokenTiles; n++) {
        const uint4 v = x.decode(x.fetch(8 * n + g, column), 0, column);
        mma(c[n], {a.x, b.x, a.y, b.y}, {v.x, v.y});
        mma(c[n], {a.z, b.z, a.w, b.w}, {v.z, v.w});
      }
    }
  }

#pragma unroll
  for (int n = 0; n < tokenTiles; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) sums[warp][8 * n + 2 * t + e % 2][g + e / 2 * 8] = c[n][e];
  }
  storeSums(sums, blockIdx.x * rows, y);
}

template <class Source>
void queueGemv(const Source& w, const Bf16Matrix& x, const Output& y, cudaStream_t stream) {
  launch(y.rows <= 8 ? gemv<Source, 1> : gemv<Source, 2>, ceilDiv(y.columns, 16), 32 * gemvWarps, stream, w, x, y);
}

}  // namespace loram
