// c[M,N] = drop(alpha * a * b) + beta * c  on bf16 operands with f32 sums, for every GPU from sm_80 on
// Layout   either operand runs along the reduction (byDepth) or across it (byPosition); see operands.cuh for the
//          sources
// Tile     128 x 128 x 64 by 8 warps of 64 x 32, or smaller ones by 4 warps where c is small or narrow; 3 stages of
//          swizzled panels (mma.cuh): at most 96 KB of shared memory, and 3 KB with the code book of NF4, so that the
//          99 KB of sm_86, sm_89 and sm_120 just suffice. Results go out through shared memory, 16 bytes a thread
// Stages   bf16 arrives by cp.async two tiles ahead; a source that must be decoded (NF4, dropout) is loaded into
//          registers before a tile's products and written to shared memory after them
// Depth    where tiles are too few for the GPU the reduction is split over blockIdx.y, each part into its own f32
//          matrix; the block that ends last adds up its tile's parts, in order: two runs give the same bits
// Needs    nothing of M, N and K: tails are zeros on the way in and left out on the way out
#pragma once
#include <algorithm>

#include "../../cuda/device.cuh"
#include "../../cuda/launch.cuh"
#include "operands.cuh"

namespace loram {

// Panels of 1024 bytes' multiples: by depth one for 64 of it, of a row for each position; by position one for 64 positions,
// however few there are, of 64 rows.
template <Order order>
__host__ __device__ constexpr int operandPanelBytes(int positions) {
  return 128 * (order == Order::byDepth ? positions : 64);
}
template <Order order>
__host__ __device__ constexpr int operandBytes(int positions, int depth) {
  return operandPanelBytes<order>(positions) *
         (order == Order::byDepth ? depth / panelColumns : (positions + panelColumns - 1) / panelColumns);
}

template <int positionsM, int positionsN, int warpsM, int warpsN, int stagesInFlight = 3,
          int depthOfTile = panelColumns>
struct TileShape {
  static constexpr int M = positionsM, N = positionsN, depth = depthOfTile, stages = stagesInFlight;
  static constexpr int warpRows = warpsM, warpM = M / warpsM, warpN = N / warpsN, threads = 32 * warpsM * warpsN;
  static constexpr int resultPitch = N + 4, resultBytes = M * resultPitch * 4;
};

// What a tile takes of shared memory, its operands lying as `orderA` and `orderB` say.
template <class Shape, Order orderA, Order orderB>
struct TileMemory {
  static constexpr int panelA = operandPanelBytes<orderA>(Shape::M), panelB = operandPanelBytes<orderB>(Shape::N);
  static constexpr int bytesA = operandBytes<orderA>(Shape::M, Shape::depth),
                       bytesB = operandBytes<orderB>(Shape::N, Shape::depth);
  static constexpr int stageBytes = bytesA + bytesB;
  static constexpr int sharedBytes = std::max(Shape::stages * stageBytes, Shape::resultBytes);
};
using LargeTile = TileShape<128, 128, 2, 4>;
using SmallTile = TileShape<64, 64, 2, 2>;
using ShallowTile = TileShape<64, 64, 2, 2, 2>;  // for a depth of few tiles, where moving c takes the time
// For LoRA's products, whose time is that of reading x: a row's neighbours together, as far as the orders allow.
template <int N, Order orderA, Order orderB>
using TallTile =
    TileShape<64, N, 4, 1, 3, orderA == Order::byDepth && orderB == Order::byDepth ? 2 * panelColumns : panelColumns>;
template <int M>
using WideTile = TileShape<M, 128, 1, 4, 4>;

// Brings one operand's [positions, depth] tile to shared memory.
template <class Source, Order order, int positions, int tileDepth, int threads>
class TileLoader {
  static_assert(order == Order::byDepth || tileDepth == panelColumns);

 public:
  __device__ TileLoader(const Source& source, int position) : source_(source), position_(position) {}

  // For an async source this is all; otherwise store() of the same arguments must follow.
  __device__ void load(uint32_t tile, int depth) {
    forChunks(tile, depth, [&](int i, uint32_t target, int row, int column) {
      if constexpr (Source::async) {
        source_.copy(target, row, column);
      } else {
        fragments_[i] = source_.fetch(row, column);
      }
    });
  }
  __device__ void store(uint32_t tile, int depth) {
    if constexpr (!Source::async) {
      forChunks(tile, depth, [&](int i, uint32_t target, int row, int column) {
        storeShared(target, source_.decode(fragments_[i], row, column));
      });
    }
  }

 private:
  static constexpr int chunks = positions * tileDepth / 8 / threads;
  struct Nothing {};
  template <class S>
  static auto fragmentOf() {
    if constexpr (S::async) {
      return Nothing{};
    } else {
      return typename S::Fragment{};
    }
  }

  template <class Body>
  __device__ void forChunks(uint32_t tile, int depth, Body body) {
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      const int index = threadIdx.x + i * threads;
      if constexpr (order == Order::byDepth) {
        constexpr int perRow = tileDepth / 8;
        const int row = index / perRow, chunk = index % perRow;
        const uint32_t panel = tile + chunk / 8 * operandPanelBytes<order>(positions);
        body(i, panelAddress(panel, row, chunk % 8), position_ + row, depth + chunk * 8);
      } else {
        constexpr int perRow = positions < panelColumns ? positions / 8 : 8;
        const int line = index / perRow, chunk = index % perRow, panel = line / 64, row = line % 64;
        const uint32_t target = panelAddress(tile + panel * 64 * 128, row, chunk);
        body(i, target, depth + row, position_ + panel * panelColumns + chunk * 8);
      }
    }
  }

  const Source& source_;
  const int position_;
  decltype(fragmentOf<Source>()) fragments_[chunks];
};

// The products of one warp.
template <class Shape, Order orderA, Order orderB>
class WarpTile {
 public:
  using Memory = TileMemory<Shape, orderA, orderB>;
  static constexpr int tilesM = Shape::warpM / 16, tilesN = Shape::warpN / 8;
  float c[tilesM][tilesN][4] = {};
  const int row = threadIdx.x / 32 % Shape::warpRows * Shape::warpM;
  const int column = threadIdx.x / 32 / Shape::warpRows * Shape::warpN;

  __device__ void multiply(uint32_t tileA, uint32_t tileB) {
#pragma unroll
    for (int depth = 0; depth < Shape::depth; depth += 16) {
      uint32_t a[tilesM][4], b[tilesN][2];
#pragma unroll
      for (int i = 0; i < tilesM; i++) loadA<orderA>(a[i], tileA, Memory::panelA, row + 16 * i, depth);
#pragma unroll
      for (int j = 0; j < tilesN; j += 2) {
        loadB<orderB>(reinterpret_cast<uint32_t(&)[2][2]>(b[j]), tileB, Memory::panelB, column + 8 * j, depth);
      }
#pragma unroll
      for (int i = 0; i < tilesM; i++) {
#pragma unroll
        for (int j = 0; j < tilesN; j++) mma(c[i][j], a[i], b[j]);
      }
    }
  }

  __device__ void store(float* results) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < tilesM; i++) {
#pragma unroll
      for (int j = 0; j < tilesN; j++) {
        float* target = results + (row + 16 * i + lane / 4) * Shape::resultPitch + column + 8 * j + lane % 4 * 2;
        *reinterpret_cast<float2*>(target) = {c[i][j][0], c[i][j][1]};
        *reinterpret_cast<float2*>(target + 8 * Shape::resultPitch) = {c[i][j][2], c[i][j][3]};
      }
    }
  }
};

// A block's results from shared memory to c.
template <class Shape>
__device__ void storeResults(const float* results, const Output& c, int firstRow, int firstColumn) {
  for (int i = threadIdx.x; i < Shape::M * Shape::N / 8; i += Shape::threads) {
    const int row = i / (Shape::N / 8), column = i % (Shape::N / 8) * 8;
    const auto* source = reinterpret_cast<const float4*>(results + row * Shape::resultPitch + column);
    const float4 low = source[0], high = source[1];
    float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    c.store(firstRow + row, firstColumn + column, values);
  }
}

// How many parts of a tile are done; 0 again when all are.
constexpr int mostSplitTiles = 4096;
static __device__ int partsDone[mostSplitTiles];

// Whether this block is the last of its tile, so that it sees what the others wrote.
__device__ inline bool isLastPart() {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&partsDone[blockIdx.x], 1) == static_cast<int>(gridDim.y) - 1;
    if (last) partsDone[blockIdx.x] = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// The parts of a split: f32 matrices [c.rows, pitch] of whole chunks, one after the other.
struct Parts {
  float* data;
  int64_t pitch;
  __device__ Output at(int i, const Output& c) const {
    return {data + i * c.rows * pitch, DType::f32, pitch, c.rows, static_cast<int>(pitch)};
  }
};

// Adds to `sum` 8 neighbours of each of `count` parts, `distance` apart. Eight are on their way at once.
__device__ inline void addParts(float (&sum)[8], const float* part, int64_t distance, int count) {
  constexpr int ahead = 8;
  for (int first = 0; first < count; first += ahead) {
    float4 values[ahead][2];
#pragma unroll
    for (int i = 0; i < ahead; i++, part += distance) {
      const bool exists = first + i < count;
      values[i][0] = exists ? __ldcg(reinterpret_cast<const float4*>(part)) : float4{};
      values[i][1] = exists ? __ldcg(reinterpret_cast<const float4*>(part) + 1) : float4{};
    }
#pragma unroll
    for (int i = 0; i < ahead; i++) {
      add(sum, values[i][0], values[i][1]);
    }
  }
}

// A tile of c from its parts.
template <class Shape>
__device__ void sumParts(const Parts& parts, const Output& c, int firstRow, int firstColumn) {
  for (int i = threadIdx.x; i < Shape::M * Shape::N / 8; i += Shape::threads) {
    const int row = firstRow + i / (Shape::N / 8), column = firstColumn + i % (Shape::N / 8) * 8;
    if (row >= c.rows || column >= c.columns) continue;
    float sum[8] = {};
    addParts(sum, parts.data + row * parts.pitch + column, c.rows * parts.pitch, gridDim.y);
    c.store(row, column, sum);
  }
}

template <class Shape, Order orderA, class SourceA, Order orderB, class SourceB>
__global__ void __launch_bounds__(Shape::threads, 1)
    gemmSm80(const SourceA a, const SourceB b, Output c, int depth, int depthOfPart, Parts parts) {
  awaitPrevious();
  using Memory = TileMemory<Shape, orderA, orderB>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = sharedAddress(shared);
  const TilePlace place =
      tilePlace(blockIdx.x, (c.rows + Shape::M - 1) / Shape::M, (c.columns + Shape::N - 1) / Shape::N);
  TileLoader<SourceA, orderA, Shape::M, Shape::depth, Shape::threads> loaderA(a, place.m * Shape::M);
  TileLoader<SourceB, orderB, Shape::N, Shape::depth, Shape::threads> loaderB(b, place.n * Shape::N);
  const int begin = blockIdx.y * depthOfPart, end = min(depth, begin + depthOfPart);
  const auto stageOf = [&](int k) { return base + (k - begin) / Shape::depth % Shape::stages * Memory::stageBytes; };
  const auto load = [&](int k) {
    if (k < end) loaderA.load(stageOf(k), k), loaderB.load(stageOf(k) + Memory::bytesA, k);
    commitCopies();
  };
  const auto store = [&](int k) {
    if (k < end) loaderA.store(stageOf(k), k), loaderB.store(stageOf(k) + Memory::bytesA, k);
  };

  if constexpr (!SourceA::async) a.prepare();
  if constexpr (!SourceB::async) b.prepare();
  __syncthreads();
  constexpr int ahead = (Shape::stages - 1) * Shape::depth;
  for (int k = begin; k < begin + ahead; k += Shape::depth) load(k), store(k);
  WarpTile<Shape, orderA, orderB> warp;
  for (int k = begin; k < end; k += Shape::depth) {
    waitCopies<Shape::stages - 2>();
    __syncthreads();
    load(k + ahead);
    warp.multiply(stageOf(k), stageOf(k) + Memory::bytesA);
    store(k + ahead);
  }
  const bool isSplit = gridDim.y > 1;
  auto* results = reinterpret_cast<float*>(shared);
  waitCopies<0>();
  __syncthreads();
  warp.store(results);
  __syncthreads();
  storeResults<Shape>(results, isSplit ? parts.at(blockIdx.y, c) : c, place.m * Shape::M, place.n * Shape::N);
  if (isSplit && isLastPart()) sumParts<Shape>(parts, c, place.m * Shape::M, place.n * Shape::N);
}

template <class Shape, Order orderA, Order orderB, class SourceA, class SourceB>
void gemmSm80With(const SourceA& a, const SourceB& b, const Output& c, int depth, cudaStream_t stream) {
  const int tiles = ceilDiv(c.rows, Shape::M) * ceilDiv(c.columns, Shape::N);
  if (tiles == 0) return;
  // Parts of at least 4 panels of depth, until there are two blocks for each multiprocessor; where tiles are few no more than
  // these, since a third on some makes all wait.
  const int blocks = 2 * multiprocessors(), tilesDeep = std::max(1, ceilDiv(depth, Shape::depth));
  const int enough = tiles <= multiprocessors() ? blocks / tiles : ceilDiv(blocks, tiles);
  const int wanted = tiles > mostSplitTiles ? 1 : std::min(enough, ceilDiv(tilesDeep * Shape::depth, 4 * panelColumns));
  const int tilesOfPart = ceilDiv(tilesDeep, wanted), parts = ceilDiv(tilesDeep, tilesOfPart);
  const int64_t pitch = ceilDiv(c.columns, 8) * 8;
  Scratch<float> sums(parts == 1 ? 0 : parts * c.rows * pitch, stream);
  constexpr int sharedBytes = TileMemory<Shape, orderA, orderB>::sharedBytes;
  launchWithShared<gemmSm80<Shape, orderA, SourceA, orderB, SourceB>, sharedBytes>(
      dim3(tiles, parts), Shape::threads, stream, a, b, c, depth, tilesOfPart * Shape::depth,
      Parts{sums.data(), pitch});
}

// c = drop(alpha * op(a) * op(b)) + beta * c, with [M, depth] and [N, depth] operands lying as their orders say.
template <Order orderA, Order orderB, class SourceA, class SourceB>
void gemmSm80(const SourceA& a, const SourceB& b, const Output& c, int depth, cudaStream_t stream) {
  const auto with = [&](auto shape) { gemmSm80With<decltype(shape), orderA, orderB>(a, b, c, depth, stream); };
  if (depth <= 2 * ShallowTile::depth) return with(ShallowTile{});
  if (c.columns <= 16) return with(TallTile<16, orderA, orderB>{});
  if (c.columns <= 32) return with(TallTile<32, orderA, orderB>{});
  if (c.columns <= 64) return with(TallTile<64, orderA, orderB>{});
  if constexpr (orderA == Order::byPosition) {
    if (c.rows <= 16) return with(WideTile<16>{});
    if (c.rows <= 32) return with(WideTile<32>{});
    if (c.rows <= 64) return with(WideTile<64>{});
  }
  const int largeTiles = ceilDiv(c.rows, LargeTile::M) * ceilDiv(c.columns, LargeTile::N);
  if (c.rows > SmallTile::M && largeTiles >= multiprocessors() / 2) return with(LargeTile{});
  with(SmallTile{});
}

}  // namespace loram
