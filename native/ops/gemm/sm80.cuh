// c[M,N] = drop(alpha * a * b) + beta * c  on bf16 operands with f32 sums, for every GPU from sm_80 on
// Layout   either operand runs along the reduction (byDepth) or across it (byPosition); see operands.cuh for the sources
// Tile     128 x 128 x 64 by 8 warps of 64 x 32, or 64 x 64 x 64 by 4 warps of 32 x 32 where the matrix is small; 3 stages
//          of swizzled panels (mma.cuh): 96 or 48 KB of shared memory, so that the 99 KB of sm_86 and sm_89 suffice
// Stages   bf16 arrives by cp.async two tiles ahead; a source that must be decoded (NF4, dropout) is loaded into registers
//          before a tile's products and written to shared memory after them
// Depth    where tiles are too few for the GPU the reduction is split over blockIdx.y, each part into its own f32 matrix,
//          and sumParts adds those in order: two runs give the same bits
// Needs    nothing of M, N and K: tails are zeros on the way in and left out on the way out
#pragma once
#include <algorithm>

#include "../../cuda/device.cuh"
#include "operands.cuh"

namespace loram {

template <int positionsM, int positionsN, int warpsM, int warpsN>
struct TileShape {
  static constexpr int M = positionsM, N = positionsN, depth = panelColumns, stages = 3;
  static constexpr int warpRows = warpsM, warpM = M / warpsM, warpN = N / warpsN, threads = 32 * warpsM * warpsN;
  static constexpr int bytesA = M * depth * 2, bytesB = N * depth * 2, stageBytes = bytesA + bytesB;
  static constexpr int sharedBytes = stages * stageBytes;
};
using LargeTile = TileShape<128, 128, 2, 4>;
using SmallTile = TileShape<64, 64, 2, 2>;

// Brings one operand's [positions, 64 deep] tile to shared memory.
template <class Source, Order order, int positions, int threads>
class TileLoader {
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
  static constexpr int chunks = positions * 8 / threads;
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
      const int index = threadIdx.x + i * threads, chunk = index % 8, line = index / 8;
      if constexpr (order == Order::byDepth) {
        body(i, panelAddress(tile, line, chunk), position_ + line, depth + chunk * 8);
      } else {
        const int panel = line / 64, row = line % 64;
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
  static constexpr int tilesM = Shape::warpM / 16, tilesN = Shape::warpN / 8;
  float c[tilesM][tilesN][4] = {};
  const int row = threadIdx.x / 32 % Shape::warpRows * Shape::warpM;
  const int column = threadIdx.x / 32 / Shape::warpRows * Shape::warpN;

  __device__ void multiply(uint32_t tileA, uint32_t tileB) {
#pragma unroll
    for (int depth = 0; depth < Shape::depth; depth += 16) {
      uint32_t a[tilesM][4], b[tilesN][2];
#pragma unroll
      for (int i = 0; i < tilesM; i++) loadA<orderA>(a[i], tileA, 64 * 128, row + 16 * i, depth);
#pragma unroll
      for (int j = 0; j < tilesN; j += 2) {
        loadB<orderB>(reinterpret_cast<uint32_t(&)[2][2]>(b[j]), tileB, 64 * 128, column + 8 * j, depth);
      }
#pragma unroll
      for (int i = 0; i < tilesM; i++) {
#pragma unroll
        for (int j = 0; j < tilesN; j++) mma(c[i][j], a[i], b[j]);
      }
    }
  }

  __device__ void store(const Output& output, int firstRow, int firstColumn) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < tilesM; i++) {
#pragma unroll
      for (int j = 0; j < tilesN; j++) {
        const int r = firstRow + row + 16 * i + lane / 4, n = firstColumn + column + 8 * j + lane % 4 * 2;
        output.store(r, n, c[i][j][0], c[i][j][1]);
        output.store(r + 8, n, c[i][j][2], c[i][j][3]);
      }
    }
  }
};

template <class Shape, Order orderA, class SourceA, Order orderB, class SourceB>
__global__ void __launch_bounds__(Shape::threads, 1)
    gemmSm80(const SourceA a, const SourceB b, Output c, int depth, int depthOfPart) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = sharedAddress(shared);
  const TilePlace place = tilePlace(blockIdx.x, (c.rows + Shape::M - 1) / Shape::M, (c.columns + Shape::N - 1) / Shape::N);
  TileLoader<SourceA, orderA, Shape::M, Shape::threads> loaderA(a, place.m * Shape::M);
  TileLoader<SourceB, orderB, Shape::N, Shape::threads> loaderB(b, place.n * Shape::N);
  const int begin = blockIdx.y * depthOfPart, end = min(depth, begin + depthOfPart);
  const auto stageOf = [&](int k) { return base + (k - begin) / Shape::depth % Shape::stages * Shape::stageBytes; };
  const auto load = [&](int k) {
    if (k < end) loaderA.load(stageOf(k), k), loaderB.load(stageOf(k) + Shape::bytesA, k);
    commitCopies();
  };
  const auto store = [&](int k) {
    if (k < end) loaderA.store(stageOf(k), k), loaderB.store(stageOf(k) + Shape::bytesA, k);
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
    warp.multiply(stageOf(k), stageOf(k) + Shape::bytesA);
    store(k + ahead);
  }
  // Only the parts of a split are several, and they are f32.
  if (blockIdx.y > 0) c.data = static_cast<float*>(c.data) + blockIdx.y * c.rows * c.pitch;
  warp.store(c, place.m * Shape::M, place.n * Shape::N);
}

// c from `parts` f32 matrices [rows, pitch] that lie one after the other.
static __global__ void sumParts(const float* parts, int count, int64_t pitch, Output c) {
  const int pairs = (c.columns + 1) / 2;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int row = static_cast<int>(index / pairs), column = static_cast<int>(index % pairs) * 2;
  if (row >= c.rows) return;
  float2 sum = {};
  for (int i = 0; i < count; i++) {
    const float2 part = *reinterpret_cast<const float2*>(parts + (i * static_cast<int64_t>(c.rows) + row) * pitch + column);
    sum.x += part.x, sum.y += part.y;
  }
  c.store(row, column, sum.x, sum.y);
}

template <class Shape, Order orderA, Order orderB, class SourceA, class SourceB>
void gemmSm80With(const SourceA& a, const SourceB& b, const Output& c, int depth, cudaStream_t stream) {
  const int tiles = ceilDiv(c.rows, Shape::M) * ceilDiv(c.columns, Shape::N);
  // Parts of at least 4 tiles of depth, until each multiprocessor has two blocks.
  const int wanted = std::min(ceilDiv(2 * multiprocessors(), tiles), ceilDiv(depth, 4 * Shape::depth));
  const int depthOfPart = ceilDiv(ceilDiv(depth, wanted), Shape::depth) * Shape::depth, parts = ceilDiv(depth, depthOfPart);
  const auto queue = [&](const Output& output) {
    launchWithShared(gemmSm80<Shape, orderA, SourceA, orderB, SourceB>, dim3(tiles, parts), Shape::threads,
                     Shape::sharedBytes, stream, a, b, output, depth, depthOfPart);
  };
  if (parts == 1) return queue(c);
  const int64_t pitch = ceilDiv(c.columns, 2) * 2;
  Scratch<float> sums(parts * c.rows * pitch, stream);
  queue({sums.data(), DType::f32, pitch, c.rows, c.columns});
  launch(sumParts, static_cast<unsigned>(ceilDiv(c.rows * pitch / 2, int64_t{256})), 256, stream, sums.data(), parts,
         pitch, c);
}

// c = drop(alpha * op(a) * op(b)) + beta * c, with [M, depth] and [N, depth] operands lying as their orders say.
template <Order orderA, Order orderB, class SourceA, class SourceB>
void gemmSm80(const SourceA& a, const SourceB& b, const Output& c, int depth, cudaStream_t stream) {
  const int largeTiles = ceilDiv(c.rows, LargeTile::M) * ceilDiv(c.columns, LargeTile::N);
  if (std::min(c.rows, c.columns) > SmallTile::M && largeTiles >= multiprocessors() / 2) {
    gemmSm80With<LargeTile, orderA, orderB>(a, b, c, depth, stream);
  } else {
    gemmSm80With<SmallTile, orderA, orderB>(a, b, c, depth, stream);
  }
}

}  // namespace loram
