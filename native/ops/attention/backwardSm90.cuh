// backward.cuh's two kernels for Hopper (sm_90a): 128 keys, or 128 rows, a block, 64 a consumer; tiles of 64 rows or
// keys pass by in 3 stages. 160 KB of shared memory at headDim 128
// Keys     scores are computed transposed, so that p^T and ds^T are left operands as they come out of the products; a
//          block goes over the query heads of its group, or over a part of them where there would be too few blocks:
//          then each part has its own f32 dk and dv, which sumParts adds in order
// Rows     q and dy are read into registers once, so that shared memory is left to k and v
// Needs    headDim 64 or 128, queries and keys of the same tokens
// Floor    7 products, 0.32 ms at 2 x 2048, 32 heads of 128 and 750 TFLOP/s
// Measured 0.51 ms there with findStats (torch's flash attention 0.87), 3.55 ms at 8192 (4.91), H100, 2026-11-24
#pragma once
#include "backward.cuh"
#include "hopper.cuh"

namespace loram::attention {

struct HopperBackward {
  CUtensorMap q, dy, k, v;  // boxes of 64 rows
  CUtensorMap stats;        // boxes of a head's 64 rows
  Backward op;
  int parts;
};

template <int dim>
struct BackwardShared {
  static constexpr int stages = 3, tileRows = 64, tile = tileRows * dim * 2, stats = tileRows * sizeof(RowStats);
  static constexpr int owned = 2 * consumers * tile, statsBegin = owned + 2 * stages * tile;
  static constexpr int barriers = statsBegin + stages * stats, bytes = barriers + 8 * (1 + 2 * stages) + 1024;
  uint32_t base;
  __device__ explicit BackwardShared(const void* memory) : base((sharedAddress(memory) + 1023) & ~1023u) {}
  // Two tiles that a consumer keeps, and two that pass by: k and v, q and dy, or the other way round.
  __device__ uint32_t kept(int consumer, int i) const { return base + (2 * consumer + i) * tile; }
  __device__ uint32_t passing(int stage, int i) const { return base + owned + (2 * stage + i) * tile; }
  __device__ uint32_t rowStats(int stage) const { return base + statsBegin + stage * stats; }
  __device__ uint32_t keptFull() const { return base + barriers; }
  __device__ uint32_t full(int stage) const { return keptFull() + 8 + 16 * stage; }
  __device__ uint32_t empty(int stage) const { return full(stage) + 8; }

  __device__ void initialize() const {
    barrierInit(keptFull(), 1);
    for (int stage = 0; stage < stages; stage++) barrierInit(full(stage), 1), barrierInit(empty(stage), 4 * consumers);
    barrierInitFence();
  }
  __device__ void loadKept(const CUtensorMap& first, const CUtensorMap& second, int head, int token) const {
    barrierArriveExpecting(keptFull(), owned);
    for (int i = 0; i < consumers; i++) {
      tmaLoadHead<dim, tileRows>(kept(i, 0), first, head, token + i * tileRows, keptFull());
      tmaLoadHead<dim, tileRows>(kept(i, 1), second, head, token + i * tileRows, keptFull());
    }
  }
  // `extra` bytes more will be announced at the same barrier.
  __device__ void loadPassing(const CUtensorMap& first, const CUtensorMap& second, int head, int token, int stage,
                              int extra = 0) const {
    barrierArriveExpecting(full(stage), 2 * tile + extra);
    tmaLoadHead<dim, tileRows>(passing(stage, 0), first, head, token, full(stage));
    tmaLoadHead<dim, tileRows>(passing(stage, 1), second, head, token, full(stage));
  }
};

struct KeysWork {
  int kvHead, firstHead, endHead, firstKey, firstToken, rows;  // keys from firstKey of a sequence of `rows`
  int endRow;                                                  // the first that sees none of them any more

  // Tiles of rows that see a key of the block, of each head in turn.
  template <int stages, class Body>
  __device__ void forTiles(Body body) const {
    int stage = 0, parity = 0;
    for (int head = firstHead; head < endHead; head++) {
      for (int row = firstKey; row < endRow; row += 64, nextStage<stages>(stage, parity)) {
        body(head, row, stage, parity);
      }
    }
  }
};

template <int dim>
__device__ void produceRows(const HopperBackward& args, const BackwardShared<dim>& shared, const KeysWork& work) {
  using Shared = BackwardShared<dim>;
  shared.loadKept(args.k, args.v, work.kvHead, work.firstToken + work.firstKey);
  work.forTiles<Shared::stages>([&](int head, int row, int stage, int parity) {
    barrierWait(shared.empty(stage), parity ^ 1);
    shared.loadPassing(args.q, args.dy, head, work.firstToken + row, stage, Shared::stats);
    tmaLoad(shared.rowStats(stage), args.stats, 4 * (work.firstToken + row), head, shared.full(stage));
  });
}

// Of row i of a tile.
__device__ inline RowStats statsOf(uint32_t stats, int i) {
  RowStats row;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(row.lse), "=f"(row.delta) : "r"(stats + 16 * i));
  return row;
}

template <int dim>
__device__ void consumeRows(const HopperBackward& args, const BackwardShared<dim>& shared, const KeysWork& work,
                            int consumer) {
  const float scale = args.op.shape.scaleLog2;
  const int window = args.op.shape.window, firstKey = work.firstKey + consumer * 64,
            key = firstKey + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  float s[8][4], dp[8][4], dk[dim / 8][4] = {}, dv[dim / 8][4] = {};
  LeftOperand<64> p, ds;
  barrierWait(shared.keptFull(), 0);
  work.forTiles<BackwardShared<dim>::stages>([&](int, int row, int stage, int parity) {
    barrierWait(shared.full(stage), parity);
    startScores<dim, 64, 64, 64>(s, shared.kept(consumer, 0), shared.passing(stage, 0));
    startScores<dim, 64, 64, 64>(dp, shared.kept(consumer, 1), shared.passing(stage, 1));
    wgmmaWait<1>();
    wgmmaPin(flat(s));
    const int column = threadIdx.x % 4 * 2;
    const bool edge = row < firstKey + 64 || row + 64 > work.rows || row + 63 - firstKey >= window;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const RowStats stats[2] = {statsOf(shared.rowStats(stage), 8 * j + column),
                                 statsOf(shared.rowStats(stage), 8 * j + column + 1)};
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = row + 8 * j + column + e % 2;
        const bool hidden = edge && (!inWindow(key + e / 2 * 8, r, window) || r >= work.rows);
        s[j][e] = hidden ? 0 : exp2Fast(s[j][e] * scale - stats[e % 2].lse);
      }
    }
    wgmmaWait<0>();
    wgmmaPin(flat(dp));
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const RowStats stats[2] = {statsOf(shared.rowStats(stage), 8 * j + column),
                                 statsOf(shared.rowStats(stage), 8 * j + column + 1)};
#pragma unroll
      for (int e = 0; e < 4; e++) dp[j][e] = s[j][e] * (dp[j][e] - stats[e % 2].delta);
    }
    // Nothing stays in flight over the next scores: there are no registers for both.
    p.take(s), ds.take(dp);
    startProduct<dim, 64>(dv, p, shared.passing(stage, 1));
    startProduct<dim, 64>(dk, ds, shared.passing(stage, 0));
    wgmmaWait<0>();
    wgmmaPin(flat(dk)), wgmmaPin(flat(dv));
    releaseStage(shared.empty(stage));
  });
  const int token = work.firstToken + firstKey + blockIdx.z * args.op.tokens, rows = work.rows - firstKey;
  storeRows<dim>(args.op.dk, args.op.dk.offset(token, work.kvHead, dim), rows, dk, scale / log2e);
  storeRows<dim>(args.op.dv, args.op.dv.offset(token, work.kvHead, dim), rows, dv, 1);
}

template <int dim>
__global__ void __launch_bounds__(hopperThreads, 1) backwardKeysSm90(const __grid_constant__ HopperBackward args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  awaitPrevious();
  extern __shared__ uint8_t memory[];
  const BackwardShared<dim> shared(memory);
  const int32_t* bounds = args.op.bounds;
  const Work found = findWork(bounds, args.op.shape.sequences, 1, blockRows, blockIdx.y);
  if (found.sequence < 0) return;
  const int size = args.op.shape.size, heads = ceilDiv(size, args.parts), kvHead = blockIdx.x;
  const int firstHead = min(size, static_cast<int>(blockIdx.z) * heads), first = bounds[found.sequence];
  const int rows = bounds[found.sequence + 1] - first, firstKey = found.tile * blockRows;
  const KeysWork work{kvHead,
                      kvHead * size + firstHead,
                      kvHead * size + min(size, firstHead + heads),
                      firstKey,
                      first,
                      rows,
                      min(rows, firstKey + blockRows - 1 + args.op.shape.window)};
  if (threadIdx.x == 0) shared.initialize();
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) produceRows(args, shared, work);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    consumeRows(args, shared, work, warpgroup - 1);
  }
#endif
}

// dk or dv, rounded from the sum of its parts.
static __global__ void sumParts(const float* parts, int count, int64_t rows, int columns, Heads to) {
  awaitPrevious();
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 2;
  if (index >= rows * columns) return;
  float2 sum = {};
  for (int i = 0; i < count; i++) {
    const float2 part = *reinterpret_cast<const float2*>(parts + i * rows * columns + index);
    sum.x += part.x, sum.y += part.y;
  }
  to.store(index / columns * to.pitch + index % columns, sum.x, sum.y);
}

// Starts c = a * b^T with a's fragments in registers, for the [64, dim] tile b.
template <int dim>
__device__ void startScores(float (&c)[8][4], uint32_t (&a)[dim / 16][4], uint32_t b) {
  wgmmaPin(flat(c));
  wgmmaFence();
#pragma unroll
  for (int depth = 0; depth < dim; depth += 16) {
    const uint64_t tile = wgmmaTile<Order::byDepth>(b + depth / panelColumns * 64 * 128, 0);
    wgmma<Order::byDepth>(flat(c), a[depth / 16], tile + depth % panelColumns / 16 * wgmmaStep<Order::byDepth>,
                          depth > 0);
  }
  wgmmaCommit();
}

template <int dim>
__device__ void consumeKeys(const HopperBackward& args, const BackwardShared<dim>& shared, int head, int firstRow,
                            int firstToken, int rows, int firstTile, int endTile, int consumer) {
  const float scale = args.op.shape.scaleLog2;
  const int warpRow = threadIdx.x % 128 / 32 * 16, row = firstRow + consumer * 64 + warpRow + threadIdx.x % 32 / 4;
  RowStats stats[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t at = static_cast<int64_t>(head) * args.op.tokens + firstToken + row + 8 * half;
    stats[half] = row + 8 * half < rows ? args.op.stats[at] : RowStats{INFINITY, 0};
  }
  uint32_t q[dim / 16][4], dy[dim / 16][4];
  barrierWait(shared.keptFull(), 0);
#pragma unroll
  for (int i = 0; i < dim / 16; i++) {
    loadA<Order::byDepth>(q[i], shared.kept(consumer, 0), 64 * 128, warpRow, 16 * i);
    loadA<Order::byDepth>(dy[i], shared.kept(consumer, 1), 64 * 128, warpRow, 16 * i);
  }
  float s[8][4], dp[8][4], dq[dim / 8][4] = {};
  LeftOperand<64> ds;
  int stage = 0, parity = 0, previous = -1;
  for (int tile = firstTile; tile < endTile; tile++, nextStage<BackwardShared<dim>::stages>(stage, parity)) {
    if (previous >= 0) startProduct<dim, 64>(dq, ds, shared.passing(previous, 0));
    barrierWait(shared.full(stage), parity);
    startScores<dim>(s, q, shared.passing(stage, 0));
    startScores<dim>(dp, dy, shared.passing(stage, 1));
    wgmmaWait<1>();
    wgmmaPin(flat(s));
    if (previous >= 0) releaseStage(shared.empty(previous));
    previous = stage;
#pragma unroll
    for (int j = 0; j < 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = tile * 64 + 8 * j + threadIdx.x % 4 * 2 + e % 2;
        const bool seen = inWindow(key, row + e / 2 * 8, args.op.shape.window);
        s[j][e] = seen ? exp2Fast(s[j][e] * scale - stats[e / 2].lse) : 0;
      }
    }
    wgmmaWait<0>();
    wgmmaPin(flat(dp)), wgmmaPin(flat(dq));
#pragma unroll
    for (int j = 0; j < 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) dp[j][e] = s[j][e] * (dp[j][e] - stats[e / 2].delta);
    }
    ds.take(dp);
  }
  startProduct<dim, 64>(dq, ds, shared.passing(previous, 0));
  wgmmaWait<0>();
  wgmmaPin(flat(dq));
  const int first = firstRow + consumer * 64;
  storeRows<dim>(args.op.dq, args.op.dq.offset(firstToken + first, head, dim), rows - first, dq, scale / log2e);
}

template <int dim>
__global__ void __launch_bounds__(hopperThreads, 1) backwardRowsSm90(const __grid_constant__ HopperBackward args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  awaitPrevious();
  extern __shared__ uint8_t memory[];
  const BackwardShared<dim> shared(memory);
  const Work found = findWork(args.op.bounds, args.op.shape.sequences, 1, blockRows, blockIdx.y);
  if (found.sequence < 0) return;
  const int head = blockIdx.x, firstToken = args.op.bounds[found.sequence],
            rows = args.op.bounds[found.sequence + 1] - firstToken;
  const int firstRow = (found.tiles - 1 - found.tile) * blockRows;  // the longest first
  const int firstTile = max(0, firstRow + 1 - args.op.shape.window) / 64;
  const int endTile = ceilDiv(min(rows, firstRow + blockRows), 64);
  if (threadIdx.x == 0) shared.initialize();
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x > 0) return;
    shared.loadKept(args.q, args.dy, head, firstToken + firstRow);
    int stage = 0, parity = 0;
    for (int tile = firstTile; tile < endTile; tile++, nextStage<BackwardShared<dim>::stages>(stage, parity)) {
      barrierWait(shared.empty(stage), parity ^ 1);
      shared.loadPassing(args.k, args.v, head / args.op.shape.size, firstToken + tile * 64, stage);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    consumeKeys(args, shared, head, firstRow, firstToken, rows, firstTile, endTile, warpgroup - 1);
  }
#endif
}

}  // namespace loram::attention
