// y = softmax(scale * q * k^T + causal or windowed mask) * v for packed sequences, FlashAttention-2 (arXiv 2307.08691)
// Tile     64 or 128 rows (16 or 32 a warp) against tiles of 64 keys, k and v double-buffered: 96 KB of shared memory
//          at headDim 128 with 128 rows; scores and y stay in registers
// Blocks   one for a tile of rows of one kv head; where those are few (decoding) the keys are split over blockIdx.z,
//          and combineParts weighs the parts in order: two runs give the same bits
// Needs    headDim <= 128, a multiple of 8
#pragma once
#include "tiles.cuh"

namespace loram::attention {

struct Forward {
  Shape shape;
  Heads q, k, v, y;
  const int32_t *queryBounds, *keyBounds;
  float* lse;  // [tokens, heads]
  // With several splits, y is f32 and `tokens` rows of y and lse further on for each.
  int splits, tokens;
};

// The online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) of the rows g and g + 8 of a 16-row fragment.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  // Turns scores into exp2(scale * (score - largest)) and brings the sum to the new largest. Says by what factor that
  // shrank what was summed before.
  template <int columns>
  __device__ void exponentiate(float (&s)[columns][4], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float now = largest[half];
#pragma unroll
      for (int j = 0; j < columns; j++) now = fmaxf(now, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
      const float base = now == -INFINITY ? 0 : now * scale;  // a row that has seen no key yet
      shrink[half] = exp2Fast(largest[half] * scale - base);
      float added = 0;
#pragma unroll
      for (int j = 0; j < columns; j++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) added += s[j][e] = exp2Fast(s[j][e] * scale - base);
      }
      sum[half] = sum[half] * shrink[half] + added;
      largest[half] = now;
    }
  }

  // The sum over the four threads that share a row.
  __device__ float total(int half) const {
    const float pair = sum[half] + __shfl_xor_sync(0xffffffff, sum[half], 1);
    return pair + __shfl_xor_sync(0xffffffff, pair, 2);
  }
};

template <int columns>
__device__ void rescale(float (&y)[columns][4], const float (&factor)[2]) {
#pragma unroll
  for (int j = 0; j < columns; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) y[j][e] *= factor[e / 2];
  }
}

// Hides the keys that a row does not see; `firstRow` is the warp's.
template <int mTiles, int columns>
__device__ void mask(float (&s)[mTiles][columns][4], const Group& group, int firstRow, int firstKey) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < mTiles; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = min(group.rows - 1, firstRow + 16 * i + 8 * half + lane / 4);
      const int last = group.endVisible(row) - 1 - firstKey - lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < columns; j++) {
        if (!inWindow(8 * j, last, group.window)) s[i][j][2 * half] = -INFINITY;
        if (!inWindow(8 * j + 1, last, group.window)) s[i][j][2 * half + 1] = -INFINITY;
      }
    }
  }
}

template <int dim, int mTiles>
__global__ void __launch_bounds__(threads) forward(const Forward op) {
  awaitPrevious();
  constexpr int rows = 16 * mTiles * warps, keyBytes = tileBytes<dim, keysPerTile>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t qTile = sharedAddress(shared), kTiles = qTile + tileBytes<dim, rows>, vTiles = kTiles + 2 * keyBytes;
  const Work work = findWork(op.queryBounds, op.shape.sequences, op.shape.size, rows, blockIdx.x);
  if (work.sequence < 0) return;
  const Group group(op.shape, op.queryBounds, op.keyBounds, work.sequence, blockIdx.y);
  const int firstRow = (work.tiles - 1 - work.tile) * rows;  // the longest first
  const int lastRow = min(group.rows, firstRow + rows) - 1, endTile = ceilDiv(group.endVisible(lastRow), keysPerTile);
  const int beginTile = group.firstVisible(firstRow) / keysPerTile;
  const int tilesOfPart = ceilDiv(endTile - beginTile, op.splits);
  const int firstTile = beginTile + blockIdx.z * tilesOfPart, lastTile = min(endTile, firstTile + tilesOfPart);

  const auto loadKeys = [&](int tile) {
    if (tile < lastTile) {
      const int buffer = tile % 2 * keyBytes, first = tile * keysPerTile;
      loadTile<dim, keysPerTile>(kTiles + buffer, group.headDim, op.k.data,
                                 [&](int j) { return group.key(op.k, first + j); });
      loadTile<dim, keysPerTile>(vTiles + buffer, group.headDim, op.v.data,
                                 [&](int j) { return group.key(op.v, first + j); });
    }
    commitCopies();
  };
  loadTile<dim, rows>(qTile, group.headDim, op.q.data, [&](int r) { return group.row(op.q, firstRow + r); });
  loadKeys(firstTile);

  const int warpRow = threadIdx.x / 32 * 16 * mTiles;
  float y[mTiles][dim / 8][4] = {};
  Softmax softmax[mTiles];
  for (int tile = firstTile; tile < lastTile; tile++) {
    loadKeys(tile + 1);
    waitCopies<1>();
    __syncthreads();
    const uint32_t kTile = kTiles + tile % 2 * keyBytes, vTile = vTiles + tile % 2 * keyBytes;
    constexpr int columns = dim == 128 && mTiles == 2 ? 32 : keysPerTile;  // half of the keys, for want of registers
#pragma unroll 1
    for (int first = 0; first < keysPerTile; first += columns) {
      const int firstKey = tile * keysPerTile + first;
      float s[mTiles][columns / 8][4] = {};
      multiplyTransposed<dim, rows, keysPerTile, mTiles, columns>(s, qTile, warpRow, kTile, first);
      if (firstKey + columns > group.endVisible(firstRow) || firstKey < group.firstVisible(lastRow)) {
        mask(s, group, firstRow + warpRow, firstKey);
      }
      float shrink[mTiles][2];
#pragma unroll
      for (int i = 0; i < mTiles; i++) softmax[i].exponentiate(s[i], op.shape.scaleLog2, shrink[i]);
#pragma unroll
      for (int i = 0; i < mTiles; i++) rescale(y[i], shrink[i]);
      multiplyResult<dim, keysPerTile, mTiles, columns>(y, s, vTile, first);
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < mTiles; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = softmax[i].total(half), inverse = sum > 0 ? 1 / sum : 0;
      const int row = firstRow + warpRow + 16 * i + 8 * half + threadIdx.x % 32 / 4;
      if (row >= group.rows) continue;
      const int token = group.token(row) + blockIdx.z * op.tokens, first = threadIdx.x % 4 * 2;
#pragma unroll
      for (int j = 0; j < dim / 8; j++) {
        if (8 * j + first >= group.headDim) break;
        op.y.store(op.y.offset(token, group.head(row), group.headDim) + 8 * j + first, y[i][j][2 * half] * inverse,
                   y[i][j][2 * half + 1] * inverse);
      }
      if (first == 0) {
        op.lse[static_cast<int64_t>(token) * op.shape.queryHeads + group.head(row)] =
            (softmax[i].largest[half] * op.shape.scaleLog2 + log2f(sum)) / log2e;
      }
    }
  }
}

// y and lse from the splits' own, a warp for each head of a token.
static __global__ void combineParts(const Forward parts, Heads y, float* lse) {
  awaitPrevious();
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32, heads = parts.shape.queryHeads;
  if (index >= parts.tokens * heads) return;
  const auto partLse = [&](int part) { return parts.lse[static_cast<int64_t>(part) * parts.tokens * heads + index]; };
  float largest = -INFINITY, sum = 0;
  for (int part = 0; part < parts.splits; part++) largest = fmaxf(largest, partLse(part));
  for (int part = 0; part < parts.splits; part++) sum += expf(partLse(part) - largest);
  const int token = index / heads, head = index % heads;
  for (int j = threadIdx.x % 32 * 2; j < parts.shape.headDim; j += 64) {
    float2 total = {};
    for (int part = 0; part < parts.splits; part++) {
      const float weight = expf(partLse(part) - largest) / sum;
      const float* source = static_cast<const float*>(parts.y.data) +
                            parts.y.offset(part * parts.tokens + token, head, parts.shape.headDim) + j;
      total.x += weight * source[0], total.y += weight * source[1];
    }
    y.store(y.offset(token, head, parts.shape.headDim) + j, total.x, total.y);
  }
  if (threadIdx.x % 32 == 0) lse[index] = largest + logf(sum);
}

}  // namespace loram::attention
