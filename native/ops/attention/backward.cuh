// dq, dk and dv by FlashAttention-2's backward (arXiv 2307.08691) in two kernels without atomics, so that two runs give
// the same bits: one owns keys and goes over the rows, those of all heads of the group included; one owns rows and goes
// over the keys. Scores are computed in both: 7 products instead of 5.
// Tile     64 rows against 64 keys, 16 rows or keys a warp; what passes by is double-buffered: 97 KB of shared memory
//          at headDim 128
// With     p = exp(scale * q * k^T - lse), ds = p * (dy * v^T - delta), delta = sum of dy * y over a row: dv = p^T *
//          dy,  dk = scale * ds^T * q,  dq = scale * ds * k
#pragma once
#include "tiles.cuh"

namespace loram::attention {

constexpr int rowsPerTile = 64;

// What backward knows of a row beside its vectors: its lse times log2(e), and delta. 16 bytes, where the copy engine's
// boxes may begin.
struct alignas(16) RowStats {
  float lse, delta;
};

struct Backward {
  Shape shape;
  Heads dy, q, k, v, dq, dk, dv;
  const RowStats* stats;  // [heads, tokens]
  int tokens;
  const int32_t* bounds;
};

// A warp for each head of a token.
static __global__ void findStats(Heads dy, Heads y, const float* lse, int tokens, int heads, int headDim,
                                 RowStats* stats) {
  awaitPrevious();
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int token = static_cast<int>(index / heads), head = static_cast<int>(index % heads);
  if (token >= tokens) return;
  float delta = 0;
  for (int j = threadIdx.x % 32 * 4; j < headDim; j += 128) {
    const uint2 a = *reinterpret_cast<const uint2*>(dy.row(token, head, headDim) + j);
    const uint2 b = *reinterpret_cast<const uint2*>(y.row(token, head, headDim) + j);
    delta += lowBf16(a.x) * lowBf16(b.x) + highBf16(a.x) * highBf16(b.x);
    delta += lowBf16(a.y) * lowBf16(b.y) + highBf16(a.y) * highBf16(b.y);
  }
  for (int distance = 16; distance > 0; distance /= 2) delta += __shfl_xor_sync(0xffffffff, delta, distance);
  if (threadIdx.x % 32 == 0) stats[static_cast<int64_t>(head) * tokens + token] = {lse[index] * log2e, delta};
}

// Writes a warp's 16 results; target(i) is where that of row i begins, negative for none.
template <int dim, class Target>
__device__ void storeResults(const Heads& to, const float (&c)[1][dim / 8][4], float scale, int headDim,
                             Target target) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t at = target(threadIdx.x % 32 / 4 + 8 * half);
    if (at < 0) continue;
#pragma unroll
    for (int j = 0; j < dim / 8; j++) {
      const int column = 8 * j + threadIdx.x % 4 * 2;
      if (column < headDim) to.store(at + column, c[0][j][2 * half] * scale, c[0][j][2 * half + 1] * scale);
    }
  }
}

// The same of a tile's rows, and the last key that each sees. A row beyond the last sees none.
struct RowFacts {
  float lse[rowsPerTile], delta[rowsPerTile];
  int lastKey[rowsPerTile];

  __device__ void load(const Backward& op, const Group& group, int firstRow) {
    const int i = threadIdx.x, row = firstRow + i;
    if (i >= rowsPerTile) return;
    const bool inside = row < group.rows;
    const int64_t at = inside ? static_cast<int64_t>(group.head(row)) * op.tokens + group.token(row) : 0;
    const RowStats stats = op.stats[at];
    lse[i] = stats.lse, delta[i] = stats.delta, lastKey[i] = inside ? group.endVisible(row) - 1 : -1;
  }
};

template <int dim>
__global__ void __launch_bounds__(threads) backwardKeys(const Backward op) {
  awaitPrevious();
  constexpr int bytes = tileBytes<dim, rowsPerTile>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t kTile = sharedAddress(shared), vTile = kTile + bytes, qTiles = vTile + bytes,
                 dyTiles = qTiles + 2 * bytes;
  auto* facts = reinterpret_cast<RowFacts*>(shared + 6 * bytes);
  const Work work = findWork(op.bounds, op.shape.sequences, 1, keysPerTile, blockIdx.x);
  if (work.sequence < 0) return;
  const Group group(op.shape, op.bounds, op.bounds, work.sequence, blockIdx.y);
  const int firstKey = work.tile * keysPerTile;
  // The keys are hidden from the queries before the first of them, and from those a window after the last.
  const int firstTile = firstKey * group.size / rowsPerTile;
  const int endRow = min(group.keys, firstKey + keysPerTile - 1 + group.window) * group.size;

  const auto loadRows = [&](int tile) {
    const int buffer = tile % 2, first = tile * rowsPerTile;
    if (first < endRow) {
      loadTile<dim, rowsPerTile>(qTiles + buffer * bytes, group.headDim, op.q.data,
                                 [&](int r) { return group.row(op.q, first + r); });
      loadTile<dim, rowsPerTile>(dyTiles + buffer * bytes, group.headDim, op.dy.data,
                                 [&](int r) { return group.row(op.dy, first + r); });
      facts[buffer].load(op, group, first);
    }
    commitCopies();
  };
  loadTile<dim, keysPerTile>(kTile, group.headDim, op.k.data, [&](int j) { return group.key(op.k, firstKey + j); });
  loadTile<dim, keysPerTile>(vTile, group.headDim, op.v.data, [&](int j) { return group.key(op.v, firstKey + j); });
  loadRows(firstTile);

  const int warpKey = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
  float dk[1][dim / 8][4] = {}, dv[1][dim / 8][4] = {};
  for (int tile = firstTile; tile * rowsPerTile < endRow; tile++) {
    loadRows(tile + 1);
    waitCopies<1>();
    __syncthreads();
    const uint32_t qTile = qTiles + tile % 2 * bytes, dyTile = dyTiles + tile % 2 * bytes;
    const RowFacts& row = facts[tile % 2];
    constexpr int columns = 32;  // half of the rows at a time, for want of registers
#pragma unroll 1
    for (int first = 0; first < rowsPerTile; first += columns) {
      float p[1][columns / 8][4] = {}, ds[1][columns / 8][4] = {};
      multiplyTransposed<dim, keysPerTile, rowsPerTile, 1, columns>(p, kTile, warpKey, qTile, first);
      multiplyTransposed<dim, keysPerTile, rowsPerTile, 1, columns>(ds, vTile, warpKey, dyTile, first);
#pragma unroll
      for (int j = 0; j < columns / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int r = first + 8 * j + lane % 4 * 2 + e % 2, key = firstKey + warpKey + lane / 4 + e / 2 * 8;
          const bool seen = inWindow(key, row.lastKey[r], op.shape.window);
          p[0][j][e] = seen ? exp2Fast(p[0][j][e] * op.shape.scaleLog2 - row.lse[r]) : 0;
          ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - row.delta[r]);
        }
      }
      multiplyResult<dim, rowsPerTile, 1, columns>(dv, p, dyTile, first);
      multiplyResult<dim, rowsPerTile, 1, columns>(dk, ds, qTile, first);
    }
    __syncthreads();
  }
  const auto target = [&](const Heads& to) {
    return [&](int i) -> int64_t {
      const int key = firstKey + warpKey + i;
      return key < group.keys ? to.offset(group.firstKey + key, group.kvHead, group.headDim) : -1;
    };
  };
  storeResults<dim>(op.dk, dk, op.shape.scaleLog2 / log2e, group.headDim, target(op.dk));
  storeResults<dim>(op.dv, dv, 1, group.headDim, target(op.dv));
}

template <int dim>
__global__ void __launch_bounds__(threads) backwardRows(const Backward op) {
  awaitPrevious();
  constexpr int bytes = tileBytes<dim, rowsPerTile>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t qTile = sharedAddress(shared), dyTile = qTile + bytes, kTiles = dyTile + bytes,
                 vTiles = kTiles + 2 * bytes;
  auto& row = *reinterpret_cast<RowFacts*>(shared + 6 * bytes);
  const Work work = findWork(op.bounds, op.shape.sequences, op.shape.size, rowsPerTile, blockIdx.x);
  if (work.sequence < 0) return;
  const Group group(op.shape, op.bounds, op.bounds, work.sequence, blockIdx.y);
  const int firstRow = (work.tiles - 1 - work.tile) * rowsPerTile;  // the longest first
  const int end = group.endVisible(min(group.rows, firstRow + rowsPerTile) - 1);
  const int firstTile = group.firstVisible(firstRow) / keysPerTile;

  const auto loadKeys = [&](int tile) {
    const int buffer = tile % 2 * bytes, first = tile * keysPerTile;
    if (first < end) {
      loadTile<dim, keysPerTile>(kTiles + buffer, group.headDim, op.k.data,
                                 [&](int j) { return group.key(op.k, first + j); });
      loadTile<dim, keysPerTile>(vTiles + buffer, group.headDim, op.v.data,
                                 [&](int j) { return group.key(op.v, first + j); });
    }
    commitCopies();
  };
  loadTile<dim, rowsPerTile>(qTile, group.headDim, op.q.data, [&](int r) { return group.row(op.q, firstRow + r); });
  loadTile<dim, rowsPerTile>(dyTile, group.headDim, op.dy.data, [&](int r) { return group.row(op.dy, firstRow + r); });
  row.load(op, group, firstRow);
  loadKeys(firstTile);

  const int warpRow = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
  float dq[1][dim / 8][4] = {};
  for (int tile = firstTile; tile * keysPerTile < end; tile++) {
    loadKeys(tile + 1);
    waitCopies<1>();
    __syncthreads();
    const uint32_t kTile = kTiles + tile % 2 * bytes, vTile = vTiles + tile % 2 * bytes;
    float p[1][keysPerTile / 8][4] = {}, ds[1][keysPerTile / 8][4] = {};
    multiplyTransposed<dim, rowsPerTile, keysPerTile, 1, keysPerTile>(p, qTile, warpRow, kTile, 0);
    multiplyTransposed<dim, rowsPerTile, keysPerTile, 1, keysPerTile>(ds, dyTile, warpRow, vTile, 0);
#pragma unroll
    for (int j = 0; j < keysPerTile / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = warpRow + lane / 4 + e / 2 * 8, key = tile * keysPerTile + 8 * j + lane % 4 * 2 + e % 2;
        const bool seen = inWindow(key, row.lastKey[r], op.shape.window);
        p[0][j][e] = seen ? exp2Fast(p[0][j][e] * op.shape.scaleLog2 - row.lse[r]) : 0;
        ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - row.delta[r]);
      }
    }
    multiplyResult<dim, keysPerTile, 1, keysPerTile>(dq, ds, kTile, 0);
    __syncthreads();
  }
  storeResults<dim>(op.dq, dq, op.shape.scaleLog2 / log2e, group.headDim, [&](int i) -> int64_t {
    const int r = firstRow + warpRow + i;
    return r < group.rows ? op.dq.offset(group.token(r), group.head(r), group.headDim) : -1;
  });
}

}  // namespace loram::attention
