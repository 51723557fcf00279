// What attention's kernels for Hopper (sm_90a) share. A block has one warpgroup of which one thread feeds the copy
// engine, and two consumer warpgroups that own 64 rows each; tiles are of one head, since a box of the copy engine is.
#pragma once
#include "../../cuda/tma.cuh"
#include "../../cuda/wgmma.cuh"
#include "tiles.cuh"

namespace loram::attention {

constexpr int consumers = 2, hopperThreads = 128 * (1 + consumers), consumerRows = 64,
              blockRows = consumers * consumerRows;

// A [rows, dim] tile of one head: a panel for each 64 columns.
template <int dim, int rows>
__device__ void tmaLoadHead(uint32_t tile, const CUtensorMap& map, int head, int token, uint32_t barrier) {
#pragma unroll
  for (int panel = 0; panel < dim / panelColumns; panel++) {
    tmaLoad(tile + panel * rows * 128, map, head * dim + panel * panelColumns, token, barrier);
  }
}
inline CUtensorMap headMap(const Heads& x, int tokens, int heads, int headDim, int boxRows) {
  return panelMap(x.data, DType::bf16, x.pitch, tokens, heads * headDim, boxRows);
}

template <int columns>
__device__ float (&flat(float (&fragment)[columns][4]))[columns * 4] {
  return reinterpret_cast<float(&)[columns * 4]>(fragment);
}

// Starts c = a * b^T for [64, dim] of a and [columns, dim] of b, both tiles by depth with panels of rowsA and rowsB
// rows.
template <int dim, int rowsA, int rowsB, int columns>
__device__ void startScores(float (&c)[columns / 8][4], uint32_t a, uint32_t b) {
  wgmmaPin(flat(c));
  wgmmaFence();
#pragma unroll
  for (int depth = 0; depth < dim; depth += 16) {
    const int panel = depth / panelColumns, step = depth % panelColumns / 16;
    wgmma<Order::byDepth, Order::byDepth>(
        flat(c), wgmmaTile<Order::byDepth>(a + panel * rowsA * 128, 0) + step * wgmmaStep<Order::byDepth>,
        wgmmaTile<Order::byDepth>(b + panel * rowsB * 128, 0) + step * wgmmaStep<Order::byDepth>, depth > 0);
  }
  wgmmaCommit();
}

// A product's result, rounded, as the left operand of the next.
template <int columns>
struct LeftOperand {
  uint32_t steps[columns / 16][4];

  __device__ void take(const float (&p)[columns / 8][4]) {
#pragma unroll
    for (int i = 0; i < columns / 16; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float(&pair)[4] = p[2 * i + half];
        steps[i][2 * half] = packBf16(pair[0], pair[1]), steps[i][2 * half + 1] = packBf16(pair[2], pair[3]);
      }
    }
  }
  __device__ void pin() {
#pragma unroll
    for (int i = 0; i < columns / 16; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) asm volatile("" : "+r"(steps[i][j])::"memory");
    }
  }
};

// Starts c[64, dim] += p * b for the [columns, dim] tile b.
template <int dim, int columns>
__device__ void startProduct(float (&c)[dim / 8][4], LeftOperand<columns>& p, uint32_t b) {
  wgmmaPin(flat(c));
  p.pin();
  wgmmaFence();
#pragma unroll
  for (int i = 0; i < columns / 16; i++) {
    const uint64_t tile = wgmmaTile<Order::byPosition>(b, columns * 128);
    wgmma<Order::byPosition>(flat(c), p.steps[i], tile + i * wgmmaStep<Order::byPosition>, true);
  }
  wgmmaCommit();
}

__device__ inline void releaseStage(uint32_t barrier) {
  if (threadIdx.x % 32 == 0) barrierArrive(barrier);
}

template <int stages>
__device__ void nextStage(int& stage, int& parity) {
  if (++stage == stages) stage = 0, parity ^= 1;
}

// Writes a consumer's 64 x dim results, but for the rows from `rows` on; row 0 begins at element `first`.
template <int dim>
__device__ void storeRows(const Heads& to, int64_t first, int rows, const float (&c)[dim / 8][4], float scale) {
  const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row + 8 * half >= rows) continue;
    const int64_t at = first + (row + 8 * half) * to.pitch + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < dim / 8; j++) to.store(at + 8 * j, c[j][2 * half] * scale, c[j][2 * half + 1] * scale);
  }
}

}  // namespace loram::attention
