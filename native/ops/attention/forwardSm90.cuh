// forward.cuh's attention for Hopper (sm_90a), after FlashAttention-3 (arXiv 2407.08608)
// Tile     128 rows of one head, 64 a consumer, against tiles of 128 keys; q, and two stages of k and v: 160 KB of
//          shared memory at headDim 128. Scores, p and y stay in registers
// Overlap  a consumer's softmax of one tile runs beside its p * v of the tile before, and beside the other consumer's
//          products
// Needs    headDim 64 or 128
// Floor    4 * rows * keys / 2 * headDim FLOP a head at 750 TFLOP/s: 0.09 ms at 2 x 2048, 32 heads of 128
// Measured 0.15 ms there (torch's flash attention 0.28), 0.89 ms at 8192 (1.72), H100, 2026-11-24
#pragma once
#include "forward.cuh"
#include "hopper.cuh"

namespace loram::attention {

struct HopperForward {
  CUtensorMap q, k, v;
  Forward op;
};

template <int dim>
struct ForwardShared {
  static constexpr int keys = 128, stages = 2, qBytes = consumerRows * dim * 2, keyBytes = keys * dim * 2;
  static constexpr int barriers = consumers * qBytes + 2 * stages * keyBytes,
                       bytes = barriers + 8 * (1 + 4 * stages) + 1024;
  uint32_t base;
  __device__ explicit ForwardShared(const void* memory) : base((sharedAddress(memory) + 1023) & ~1023u) {}
  __device__ uint32_t q(int consumer) const { return base + consumer * qBytes; }
  __device__ uint32_t k(int stage) const { return base + consumers * qBytes + stage * keyBytes; }
  __device__ uint32_t v(int stage) const { return k(stages + stage); }
  __device__ uint32_t qFull() const { return base + barriers; }
  __device__ uint32_t kFull(int stage) const { return qFull() + 8 + 32 * stage; }
  __device__ uint32_t kEmpty(int stage) const { return kFull(stage) + 8; }
  __device__ uint32_t vFull(int stage) const { return kFull(stage) + 16; }
  __device__ uint32_t vEmpty(int stage) const { return kFull(stage) + 24; }

  __device__ void initialize() const {
    barrierInit(qFull(), 1);
    for (int stage = 0; stage < stages; stage++) {
      barrierInit(kFull(stage), 1), barrierInit(kEmpty(stage), 4 * consumers);
      barrierInit(vFull(stage), 1), barrierInit(vEmpty(stage), 4 * consumers);
    }
    barrierInitFence();
  }
};

// What one block works on: the rows are queries of `head`.
struct HeadTile {
  int head, firstRow, rows, firstToken, keys, firstKey, tiles;
};

template <int dim>
__device__ void loadForward(const HopperForward& args, const ForwardShared<dim>& shared, const HeadTile& work) {
  using Shared = ForwardShared<dim>;
  const int kvHead = work.head / args.op.shape.size;
  barrierArriveExpecting(shared.qFull(), consumers * Shared::qBytes);
  for (int i = 0; i < consumers; i++) {
    tmaLoadHead<dim, consumerRows>(shared.q(i), args.q, work.head, work.firstToken + i * consumerRows, shared.qFull());
  }
  int stage = 0, parity = 0;
  for (int tile = 0; tile < work.tiles; tile++, nextStage<Shared::stages>(stage, parity)) {
    const int token = work.firstKey + tile * Shared::keys;
    barrierWait(shared.kEmpty(stage), parity ^ 1);
    barrierArriveExpecting(shared.kFull(stage), Shared::keyBytes);
    tmaLoadHead<dim, Shared::keys>(shared.k(stage), args.k, kvHead, token, shared.kFull(stage));
    barrierWait(shared.vEmpty(stage), parity ^ 1);
    barrierArriveExpecting(shared.vFull(stage), Shared::keyBytes);
    tmaLoadHead<dim, Shared::keys>(shared.v(stage), args.v, kvHead, token, shared.vFull(stage));
  }
}

// Hides the keys that rows g and g + 8, of which last[half] are the last keys, do not see, in a tile that begins at firstKey.
template <int columns>
__device__ void maskRows(float (&s)[columns][4], const int (&last)[2], int window, int firstKey) {
#pragma unroll
  for (int j = 0; j < columns; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (!inWindow(firstKey + 8 * j + threadIdx.x % 4 * 2 + e % 2, last[e / 2], window)) s[j][e] = -INFINITY;
    }
  }
}

template <int dim>
__device__ void consumeForward(const Forward& op, const ForwardShared<dim>& shared, const HeadTile& work,
                               int consumer) {
  using Shared = ForwardShared<dim>;
  const int row = consumer * consumerRows + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;  // of the tile
  const int ahead = work.keys - work.rows + work.firstRow;  // the last key of row r of the tile is r + ahead
  const int last[2] = {row + ahead, row + 8 + ahead};
  float s[Shared::keys / 8][4], y[dim / 8][4] = {}, shrink[2];
  LeftOperand<Shared::keys> p;
  Softmax softmax;
  const auto mask = [&](int tile) {
    const int first = tile * Shared::keys, least = consumer * consumerRows + ahead;
    if (first + Shared::keys - 1 > least || least + consumerRows - 1 - first >= op.shape.window) {
      maskRows(s, last, op.shape.window, first);
    }
  };

  int stage = 0, parity = 0;
  barrierWait(shared.qFull(), 0);
  barrierWait(shared.kFull(0), 0);
  startScores<dim, consumerRows, Shared::keys, Shared::keys>(s, shared.q(consumer), shared.k(0));
  wgmmaWait<0>();
  wgmmaPin(flat(s));
  releaseStage(shared.kEmpty(0));
  mask(0);
  softmax.exponentiate(s, op.shape.scaleLog2, shrink);
  p.take(s);
  for (int tile = 1; tile < work.tiles; tile++) {
    const int vStage = stage, vParity = parity;
    nextStage<Shared::stages>(stage, parity);
    barrierWait(shared.kFull(stage), parity);
    startScores<dim, consumerRows, Shared::keys, Shared::keys>(s, shared.q(consumer), shared.k(stage));
    barrierWait(shared.vFull(vStage), vParity);
    startProduct<dim, Shared::keys>(y, p, shared.v(vStage));
    wgmmaWait<1>();
    wgmmaPin(flat(s));
    releaseStage(shared.kEmpty(stage));
    mask(tile);
    softmax.exponentiate(s, op.shape.scaleLog2, shrink);
    wgmmaWait<0>();
    wgmmaPin(flat(y));
    releaseStage(shared.vEmpty(vStage));
    rescale(y, shrink);
    p.take(s);
  }
  barrierWait(shared.vFull(stage), parity);
  startProduct<dim, Shared::keys>(y, p, shared.v(stage));
  wgmmaWait<0>();
  wgmmaPin(flat(y));

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float sum = softmax.total(half);
    inverse[half] = 1 / sum;
    const int query = work.firstRow + row + 8 * half;
    if (query < work.rows && threadIdx.x % 4 == 0) {
      op.lse[static_cast<int64_t>(work.firstToken + row + 8 * half) * op.shape.queryHeads + work.head] =
          (softmax.largest[half] * op.shape.scaleLog2 + log2f(sum)) / log2e;
    }
  }
  rescale(y, inverse);
  const int first = consumer * consumerRows;
  storeRows<dim>(op.y, op.y.offset(work.firstToken + first, work.head, dim), work.rows - work.firstRow - first, y, 1);
}

template <int dim>
__global__ void __launch_bounds__(hopperThreads, 1) forwardSm90(const __grid_constant__ HopperForward args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  awaitPrevious();
  extern __shared__ uint8_t memory[];
  const ForwardShared<dim> shared(memory);
  const Forward& op = args.op;
  const Work found = findWork(op.queryBounds, op.shape.sequences, 1, blockRows, blockIdx.y);
  if (found.sequence < 0) return;
  HeadTile work;
  work.head = blockIdx.x;
  work.rows = op.queryBounds[found.sequence + 1] - op.queryBounds[found.sequence];
  work.keys = op.keyBounds[found.sequence + 1] - op.keyBounds[found.sequence];
  work.firstRow = (found.tiles - 1 - found.tile) * blockRows;  // the longest first
  work.firstToken = op.queryBounds[found.sequence] + work.firstRow;
  work.firstKey = op.keyBounds[found.sequence];
  const int hidden = max(0, work.keys - work.rows + work.firstRow + 1 - op.shape.window);  // from all rows of the tile
  const int skipped = hidden / ForwardShared<dim>::keys * ForwardShared<dim>::keys;
  work.keys -= skipped, work.firstKey += skipped;
  work.tiles = ceilDiv(min(work.rows, work.firstRow + blockRows) + work.keys - work.rows, ForwardShared<dim>::keys);

  if (threadIdx.x == 0) shared.initialize();
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) loadForward(args, shared, work);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    consumeForward(op, shared, work, warpgroup - 1);
  }
#endif
}

}  // namespace loram::attention
