// y[M,N] = alpha * x[M,K] * w[N,K]^T + beta * y for M <= 16: decoding, where the time is that of reading w
// Layout   x bf16, w bf16 or NF4; a warp takes w as mma's A operand, 16 rows of it, and x^T as B, 8 tokens a tile
// Order    the sum's order is free as long as both operands keep to it: a lane reads 8 neighbours at a time, so that what
//          it decodes is a fragment as it is
// Blocks   16 or 32 rows of w; 8 warps share K in steps of 128 and add up in order: two runs give the same bits
// Floor    bytes of w / memory bandwidth
#pragma once
#include "../../cuda/device.cuh"
#include "operands.cuh"

namespace loram {

constexpr int gemvWarps = 8, gemvDepth = 128, gemvMaxTokens = 16;

template <class Source, int groups, int tokenTiles>
__global__ void __launch_bounds__(32 * gemvWarps, groups == 1 ? 2 : 1) gemv(const Source w, const Bf16Matrix x, const Output y) {
  constexpr int rows = 16 * groups, tokens = 8 * tokenTiles;
  __shared__ float sums[gemvWarps][rows][tokens + 1];
  w.prepare();
  __syncthreads();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int firstRow = blockIdx.x * rows;
  float c[groups][tokenTiles][4] = {};
  for (int k = warp * gemvDepth; k < x.columns; k += gemvWarps * gemvDepth) {
    typename Source::Fragment run[2 * groups][4];
#pragma unroll
    for (int i = 0; i < 2 * groups; i++) w.fetchRun(run[i], firstRow + 8 * i + g, k, t);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint4 token[tokenTiles];
#pragma unroll
      for (int n = 0; n < tokenTiles; n++) token[n] = x.fetch(8 * n + g, k + Source::offset(t, j)).values;
#pragma unroll
      for (int i = 0; i < groups; i++) {
        const uint4 upper = w.decode(run[2 * i][j], 0, 0), lower = w.decode(run[2 * i + 1][j], 0, 0);
#pragma unroll
        for (int n = 0; n < tokenTiles; n++) {
          mma(c[i][n], {upper.x, lower.x, upper.y, lower.y}, {token[n].x, token[n].y});
          mma(c[i][n], {upper.z, lower.z, upper.w, lower.w}, {token[n].z, token[n].w});
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < groups; i++) {
#pragma unroll
    for (int n = 0; n < tokenTiles; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) sums[warp][16 * i + g + e / 2 * 8][8 * n + 2 * t + e % 2] = c[i][n][e];
    }
  }
  __syncthreads();
  const auto sum = [&](int row, int token) {
    float sum = 0;
    for (int i = 0; i < gemvWarps; i++) sum += sums[i][row][token];
    return sum;
  };
  const int row = threadIdx.x % (rows / 2) * 2, token = threadIdx.x / (rows / 2);
  if (token < tokens) y.store(token, firstRow + row, sum(row, token), sum(row + 1, token));
}

template <class Source>
void queueGemv(const Source& w, const Bf16Matrix& x, const Output& y, cudaStream_t stream) {
  if (x.rows <= 8) {
    launch(gemv<Source, 1, 1>, ceilDiv(y.columns, 16), 32 * gemvWarps, stream, w, x, y);
  } else {
    launch(gemv<Source, 2, 2>, ceilDiv(y.columns, 32), 32 * gemvWarps, stream, w, x, y);
  }
}

}  // namespace loram
