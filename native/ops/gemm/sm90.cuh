// c[M,N] = alpha * (a * b + left * right), or added to c, on bf16 operands with f32 sums, for Hopper (sm_90a)
// Layout   either operand runs along the reduction (byDepth) or across it (byPosition): wgmma takes both as they lie; c
//          bf16 or f32. left * right, LoRA's product of low rank, is a step or two of depth more from operands of its
//          own
// Tile     128 x N x 64, N = 128, 192 or 256, whichever fills the waves of tiles best; 4 stages of at most 48 KB, and
//          two slabs of 8 KB a consumer for c: 225 KB of shared memory, one block a multiprocessor
// Warps    1 warpgroup of which one thread feeds the copy engine, 2 consumer warpgroups of 64 rows each with N / 2
//          accumulators a thread; persistent blocks, tiles in columns of 8 for the second-level cache; results in bf16
//          are stored while the next tile is added up
// Depth    where tiles are too few for the GPU, a cluster of up to 8 blocks shares the depth of one and adds up, in
//          order, through each other's shared memory: two runs give the same bits
// Needs    pitches of a multiple of 16 bytes; tails are zeros on the way in and left out on the way out
// Floor    2MNK / 750 TFLOP/s, what cuBLAS reaches on an H100 at its power limit
// Measured 0.98 to 1.03 of cuBLAS, H200, 2026-11-29; bench/notes/gemm.md
#pragma once
#include <algorithm>

#include "../../cuda/cluster.cuh"
#include "../../cuda/device.cuh"
#include "../../cuda/launch.cuh"
#include "../../cuda/tma.cuh"
#include "../../cuda/wgmma.cuh"
#include "gemm.h"

namespace loram {

template <int columns, bool sharesDepth = false>
struct HopperTile {
  static constexpr bool split = sharesDepth;
  static constexpr int M = 128, N = columns, depth = panelColumns, stages = 4, consumers = 2,
                       threads = 128 * (1 + consumers);
  static constexpr int panelBytes = 64 * 128, bytesA = M * 128, bytesB = N * 128, stageBytes = bytesA + bytesB;
  static constexpr int slabs = stages * stageBytes, slabsOfTile = N / 64, slabsOfConsumer = 2,
                       barriers = slabs + consumers * slabsOfConsumer * panelBytes;
  static constexpr int sharedBytes = barriers + 2 * stages * 8 + 1024;  // the base is brought to a multiple of 1024
};

struct HopperGemm {
  CUtensorMap a, b, left, right, c;
  Output result;
  int depth, rank, parts;
};

// What a block adds up.
struct DepthPart {
  int begin, end, rank;
};

template <class Tile>
__device__ DepthPart depthPart(const HopperGemm& op) {
  if constexpr (!Tile::split) return {0, op.depth, op.rank};
  const int part = blockIdx.x % op.parts, depth = ceilDiv(op.depth, Tile::depth * op.parts) * Tile::depth;
  return {part * depth, min(op.depth, (part + 1) * depth), part == op.parts - 1 ? op.rank : 0};
}

// A place in the ring of stages, and the parity of the phase in which its barriers are.
template <int stages>
struct RingPlace {
  int stage = 0, parity = 0;
  __device__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

template <class Tile>
struct HopperShared {
  uint32_t base;
  __device__ explicit HopperShared(const void* memory) : base((sharedAddress(memory) + 1023) & ~1023u) {}
  __device__ uint32_t a(int stage) const { return base + stage * Tile::stageBytes; }
  __device__ uint32_t b(int stage) const { return a(stage) + Tile::bytesA; }
  __device__ uint32_t slab(int consumer, int i) const {
    return base + Tile::slabs + (consumer * Tile::slabsOfConsumer + i) * Tile::panelBytes;
  }
  __device__ uint32_t full(int stage) const { return base + Tile::barriers + 16 * stage; }
  __device__ uint32_t empty(int stage) const { return full(stage) + 8; }
};

template <class Tile, class Body>
__device__ void forHopperTiles(const HopperGemm& op, Body body) {
  const int tilesM = ceilDiv(op.result.rows, Tile::M), tilesN = ceilDiv(op.result.columns, Tile::N);
  const int parts = Tile::split ? op.parts : 1;
  for (int i = blockIdx.x / parts; i < tilesM * tilesN; i += gridDim.x / parts) {
    const TilePlace place = tilePlace(i, tilesM, tilesN);
    body(place.m * Tile::M, place.n * Tile::N);
  }
}

// One operand's tile, by depth in one box, else in a box per panel.
template <Order order, int positions>
__device__ void tmaLoadTile(uint32_t tile, const CUtensorMap& map, int position, int depth, uint32_t barrier) {
  if constexpr (order == Order::byDepth) {
    tmaLoad(tile, map, depth, position, barrier);
  } else {
#pragma unroll
    for (int panel = 0; panel < positions / panelColumns; panel++) {
      tmaLoad(tile + panel * 64 * 128, map, position + panel * panelColumns, depth, barrier);
    }
  }
}

template <class Tile, Order orderA, Order orderB>
__device__ void produce(const HopperGemm& op, const HopperShared<Tile>& shared) {
  RingPlace<Tile::stages> place;
  const DepthPart part = depthPart<Tile>(op);
  const auto load = [&](const CUtensorMap& a, const CUtensorMap& b, int m, int n, int begin, int end) {
    for (int depth = begin; depth < end; depth += Tile::depth, place.advance()) {
      barrierWait(shared.empty(place.stage), place.parity ^ 1);
      barrierArriveExpecting(shared.full(place.stage), Tile::stageBytes);
      tmaLoadTile<orderA, Tile::M>(shared.a(place.stage), a, m, depth, shared.full(place.stage));
      tmaLoadTile<orderB, Tile::N>(shared.b(place.stage), b, n, depth, shared.full(place.stage));
    }
  };
  forHopperTiles<Tile>(op, [&](int m, int n) {
    load(op.a, op.b, m, n, part.begin, part.end);
    load(op.left, op.right, m, n, 0, part.rank);
  });
}

// Adds up one tile, and calls beside(step) in every step, while the tensor cores work, and for those that it does not have
// of the first `Tile::slabsOfTile`. A stage is free one step later, when the products that read it are done: in every warp
// of the consumers, since a warp waits for its own part alone.
template <class Tile, Order orderA, Order orderB, class Beside>
__device__ void accumulate(float (&d)[Tile::N / 2], const HopperGemm& op, const HopperShared<Tile>& shared,
                           RingPlace<Tile::stages>& place, int consumer, Beside beside) {
  const bool announces = threadIdx.x % 32 == 0;
  const DepthPart part = depthPart<Tile>(op);
  const int steps = ceilDiv(part.end - part.begin, Tile::depth) + ceilDiv(part.rank, Tile::depth);
  int previous = -1;
  for (int i = 0; i < steps; i++, place.advance()) {
    barrierWait(shared.full(place.stage), place.parity);
    const uint64_t a = wgmmaTile<orderA>(shared.a(place.stage) + consumer * Tile::panelBytes, Tile::panelBytes);
    const uint64_t b = wgmmaTile<orderB>(shared.b(place.stage), Tile::panelBytes);
    wgmmaPin(d);
    wgmmaFence();
#pragma unroll
    for (int step = 0; step < Tile::depth / 16; step++) {
      wgmma<orderA, orderB>(d, a + step * wgmmaStep<orderA>, b + step * wgmmaStep<orderB>, i > 0 || step > 0);
    }
    wgmmaCommit();
    beside(i);
    wgmmaWait<1>();
    if (announces && previous >= 0) barrierArrive(shared.empty(previous));
    previous = place.stage;
  }
  for (int i = steps; i < Tile::slabsOfTile; i++) beside(i);
  wgmmaWait<0>();
  wgmmaPin(d);
  if (announces) barrierArrive(shared.empty(previous));
}

// Sends a slab, 64 rows of 128 bytes that `fill` writes, to c: one is filled while the other, used before it, is on its way.
template <class Tile, class Fill>
__device__ void sendSlab(const HopperGemm& op, const HopperShared<Tile>& shared, int consumer, int& next, int m, int n,
                         Fill fill) {
  const bool sends = threadIdx.x % 128 == 0;
  const uint32_t slab = shared.slab(consumer, next);
  next ^= 1;
  if (sends) tmaWaitRead<Tile::slabsOfConsumer - 1>();
  asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");
  fill(slab);
  asyncProxyFence();
  asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");
  if (!sends) return;
  op.result.beta == 1 ? tmaAdd(op.c, n, m, slab) : tmaStore(op.c, n, m, slab);
  tmaCommit();
}

// A consumer's 64 x N results in f32.
template <class Tile>
__device__ void sendTile(const float (&d)[Tile::N / 2], const HopperGemm& op, const HopperShared<Tile>& shared,
                         int consumer, int& next, int m, int n) {
  const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < Tile::N / 32; i++) {
    sendSlab(op, shared, consumer, next, m + consumer * 64, n + 32 * i, [&](uint32_t slab) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float* pair = d + 16 * i + 2 * j;
        const uint32_t target = panelAddress(slab, row + j % 2 * 8, j / 2 * 2 + lane % 4 / 2) + lane % 2 * 8;
        storeShared(target, float2{op.result.alpha * pair[0], op.result.alpha * pair[1]});
      }
    });
  }
}

// A consumer's 64 x N results in bf16. Packed, they leave the accumulators to the next tile, in whose first steps they are
// sent: the tensor cores do not wait for them.
template <class Tile>
class PackedTile {
 public:
  __device__ void pack(const float (&d)[Tile::N / 2], float alpha, int row, int column) {
#pragma unroll
    for (int i = 0; i < Tile::N / 4; i++) pairs[i] = packBf16(alpha * d[2 * i], alpha * d[2 * i + 1]);
    m = row, n = column, pending = true;
  }

  // Sends slab `step`, if there is one.
  __device__ void send(int step, const HopperGemm& op, const HopperShared<Tile>& shared, int consumer) {
    if (!pending) return;
#pragma unroll
    for (int i = 0; i < Tile::slabsOfTile; i++) {  // registers have no index at run time
      if (step != i) continue;
      sendSlab(op, shared, consumer, next, m + consumer * 64, n + 64 * i,
               [&](uint32_t slab) { fill(slab, pairs + 16 * i); });
    }
  }

 private:
  // 64 columns.
  static __device__ void fill(uint32_t slab, const uint32_t* pairs) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < 4; i++, pairs += 4) {
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                       panelAddress(slab, row, 2 * i + lane / 16)),
                   "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                   : "memory");
    }
  }

  uint32_t pairs[Tile::N / 4];
  int m, n, next = 0;
  bool pending = false;
};

// Stores the sum of what a cluster's blocks have of a tile, each a share of its rows. The stages, which no block reads
// any more, hold it for the others.
template <class Tile>
__device__ void storeSum(const float (&d)[Tile::N / 2], const HopperGemm& op, const HopperShared<Tile>& shared,
                         int consumer, int m, int n) {
  constexpr int rowBytes = 4 * (Tile::N + 8), chunks = Tile::N / 8, threads = 128 * Tile::consumers;
  static_assert(Tile::M * rowBytes <= Tile::slabs);
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const uint32_t target =
      shared.base + (consumer * 64 + thread / 32 * 16 + lane / 4) * rowBytes + lane % 4 * 2 * sizeof(float);
  asm volatile("bar.sync %0, %1;" ::"n"(Tile::consumers + 1), "n"(threads) : "memory");
#pragma unroll
  for (int i = 0; i < chunks; i++) {
    storeShared(target + 32 * i, float2{d[4 * i], d[4 * i + 1]});
    storeShared(target + 32 * i + 8 * rowBytes, float2{d[4 * i + 2], d[4 * i + 3]});
  }
  clusterSync();
  const int first = blockIdx.x % op.parts * threads + consumer * 128 + thread;
  for (int i = first; i < Tile::M * chunks; i += op.parts * threads) {
    const int row = i / chunks, column = i % chunks * 8;
    float sum[8] = {};
    for (int part = 0; part < op.parts; part++) {
      const uint32_t source = sharedOfBlock(shared.base + row * rowBytes + column * sizeof(float), part);
      add(sum, loadCluster(source), loadCluster(source + 16));
    }
    op.result.store(m + row, n + column, sum);
  }
  clusterSync();  // no block may go while others read what it has
}

template <class Tile, Order orderA, Order orderB, class T>
__global__ void __launch_bounds__(Tile::threads, 1) gemmSm90(const __grid_constant__ HopperGemm op) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  const HopperShared<Tile> shared(memory);
  if (threadIdx.x == 0) {
    prefetchMap(op.a), prefetchMap(op.b), prefetchMap(op.c);
    for (int stage = 0; stage < Tile::stages; stage++) {
      barrierInit(shared.full(stage), 1);
      barrierInit(shared.empty(stage), 4 * Tile::consumers);
    }
    barrierInitFence();
  }
  __syncthreads();
  awaitPrevious();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) produce<Tile, orderA, orderB>(op, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    RingPlace<Tile::stages> place;
    const int consumer = warpgroup - 1;
    float d[Tile::N / 2];
    const auto add = [&](auto beside) { accumulate<Tile, orderA, orderB>(d, op, shared, place, consumer, beside); };
    if constexpr (Tile::split) {
      forHopperTiles<Tile>(op, [&](int m, int n) {
        add([](int) {});
        storeSum(d, op, shared, consumer, m, n);
      });
    } else if constexpr (std::is_same_v<T, float>) {
      int slab = 0;
      forHopperTiles<Tile>(op, [&](int m, int n) {
        add([](int) {});
        sendTile(d, op, shared, consumer, slab, m, n);
      });
    } else {
      PackedTile<Tile> results;
      const auto send = [&](int step) { results.send(step, op, shared, consumer); };
      forHopperTiles<Tile>(op, [&](int m, int n) {
        add(send);
        results.pack(d, op.result.alpha, m, n);
      });
      for (int i = 0; i < Tile::slabsOfTile; i++) send(i);
    }
    if (threadIdx.x % 128 == 0) tmaWait<0>();
  }
#endif
}

template <class Tile, Order orderA, Order orderB, class T>
void queueSm90(const Bf16Matrix& a, const Bf16Matrix& b, const LowRank& extra, const Output& c, int depth, int parts,
               cudaStream_t stream) {
  const auto map = [](const Bf16Matrix& matrix, int boxRows) {
    return panelMap(matrix.data, DType::bf16, matrix.pitch, matrix.rows, matrix.columns, boxRows);
  };
  constexpr int rowsA = orderA == Order::byDepth ? Tile::M : Tile::depth;
  constexpr int rowsB = orderB == Order::byDepth ? Tile::N : Tile::depth;
  const CUtensorMap mapA = map(a, rowsA), mapB = map(b, rowsB);
  const HopperGemm op{mapA,
                      mapB,
                      extra.rank > 0 ? map(extra.left, rowsA) : mapA,
                      extra.rank > 0 ? map(extra.right, rowsB) : mapB,
                      panelMap(c.data, c.dtype, c.pitch, c.rows, c.columns, 64),
                      c,
                      depth,
                      extra.rank,
                      parts};
  const int tiles = ceilDiv(c.rows, Tile::M) * ceilDiv(c.columns, Tile::N);
  constexpr auto kernel = gemmSm90<Tile, orderA, orderB, T>;
  if constexpr (Tile::split) {
    launchClusters<kernel, Tile::sharedBytes>(parts, parts * tiles, Tile::threads, stream, op);
  } else {
    launchWithShared<kernel, Tile::sharedBytes>(std::min(tiles, multiprocessors()), Tile::threads, stream, op);
  }
}

// Into how many parts the kernel splits the depth; 0 where it does not apply, or has not enough tiles to be worth its
// while. A part is deep enough to pay for the sum.
inline int partsSm90(const Output& c, int depth) {
  constexpr int mostBlocksOfCluster = 8, leastDepth = 8 * panelColumns;
  if (depth == 0 || deviceAttribute<cudaDevAttrComputeCapabilityMajor>() != 9 || (c.beta != 0 && c.beta != 1) ||
      c.dropout.probability > 0 || c.pitch * bytesPerElement(c.dtype) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(c.data) % 16 != 0) {
    return 0;
  }
  const int tiles = ceilDiv(c.rows, 128) * ceilDiv(c.columns, 128);
  int parts = 1;
  if (std::min(c.rows, c.columns) >= 128) {
    while (parts < mostBlocksOfCluster && 2 * parts * tiles <= multiprocessors() && depth >= 2 * parts * leastDepth) {
      parts *= 2;
    }
  }
  return tiles * (parts > 1 ? 2 * parts : 3) >= multiprocessors() ? parts : 0;
}

template <Order orderA, Order orderB>
void splitSm90(const Bf16Matrix& a, const Bf16Matrix& b, const LowRank& extra, const Output& c, int depth, int parts,
               cudaStream_t stream) {
  // Half as many blocks on tiles twice as wide read a half as often. storeSum writes c in its dtype, whatever T.
  const auto queue = c.columns % 256 == 0 ? queueSm90<HopperTile<256, true>, orderA, orderB, float>
                                          : queueSm90<HopperTile<128, true>, orderA, orderB, float>;
  queue(a, b, extra, c, depth, parts, stream);
}

template <Order orderA, Order orderB, class T>
void gemmSm90(const Bf16Matrix& a, const Bf16Matrix& b, const LowRank& extra, const Output& c, int depth,
              cudaStream_t stream) {
  // The time of all waves, in columns of a tile; narrow tiles read shared memory more often for the same work.
  const auto time = [&](int N, float perColumn) {
    const int tiles = ceilDiv(c.rows, 128) * ceilDiv(c.columns, N);
    return ceilDiv(tiles, multiprocessors()) * N * perColumn;
  };
  const float wide = time(256, 1), middle = time(192, 1.03f), narrow = time(128, 1.1f);
  const auto queue = wide <= std::min(middle, narrow) ? queueSm90<HopperTile<256>, orderA, orderB, T>
                     : middle <= narrow               ? queueSm90<HopperTile<192>, orderA, orderB, T>
                                                      : queueSm90<HopperTile<128>, orderA, orderB, T>;
  queue(a, b, extra, c, depth, 1, stream);
}

}  // namespace loram
