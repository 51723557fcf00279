// d = scale * dy * b and db += dy^T * u in one pass over dy, for ranks of at most 32
// Layout   dy [T, N], u [T, r] and b [N, r] bf16; rows of u and b lie 16 bytes further apart in shared memory than
//          they are long, so that ldmatrix meets no bank twice
// Tile     64 rows x 256 columns of dy, of which a block takes those of one stripe of columns one after the other; 4
//          warps add up d of the tile, 16 rows each, and 4 db of the stripe, 64 columns each
// Sums     every stripe has its part of d and every group of rows its part of db, in f32; a second kernel adds them in
//          order: two runs give the same bits
// Floor    2 T N bytes: 39 us at 4096 x 14336 and the 3.0 TB/s that a copy reaches
// Measured 54 us there and 16 us for the sums, H100, 2026-11-24; the two products apart took 114
#pragma once
#include "../../cuda/device.cuh"
#include "../../cuda/launch.cuh"
#include "../gemm/sm80.cuh"

namespace loram {

template <int rank>
struct OutputTile {
  static constexpr int rows = 64, columns = 256, threads = 256, stages = 2, panelBytes = rows * 128;
  static constexpr int pitch = 2 * rank + 16, bytesOfDy = columns / panelColumns * panelBytes, bytesOfU = rows * pitch,
                       stageBytes = bytesOfDy + bytesOfU, sharedBytes = stages * stageBytes + columns * pitch;
};

struct OutputPass {
  Bf16Matrix dy, u, b;
  int rowsOfPart;
  float *d, *db;  // [stripes, T, rank] and [parts, N, rank]
};

// Fragments of `rank` positions, 16 deep from row `depth` on.
template <int rank>
__device__ void loadNarrow(uint32_t (&b)[rank / 8][2], uint32_t rows, int depth) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < rank / 8; j += 2) {
    uint32_t v[4];
    ldmatrixTransposed(v, rows + (depth + lane % 16) * OutputTile<rank>::pitch + (j + lane / 16) * 16);
    b[j][0] = v[0], b[j][1] = v[1], b[j + 1][0] = v[2], b[j + 1][1] = v[3];
  }
}

// 16 rows of results to a matrix of `rank` columns.
template <int rank>
__device__ void storeNarrow(float* target, const float (&c)[rank / 8][4], int row, int rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t place = row + lane / 4 + 8 * half;
    if (place >= rows) continue;
#pragma unroll
    for (int j = 0; j < rank / 8; j++) {
      *reinterpret_cast<float2*>(target + place * rank + 8 * j + lane % 4 * 2) = {c[j][2 * half], c[j][2 * half + 1]};
    }
  }
}

template <int rank>
__global__ void __launch_bounds__(256, rank == 16 ? 2 : 1) outputPass(const OutputPass op) {
  awaitPrevious();
  using Tile = OutputTile<rank>;
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t shared = sharedAddress(memory), rowsOfB = shared + Tile::stages * Tile::stageBytes;
  const int column = blockIdx.x * Tile::columns, begin = blockIdx.y * op.rowsOfPart,
            end = min(op.dy.rows, begin + op.rowsOfPart), warp = threadIdx.x / 32;

  const auto load = [&](int row) {
    if (row < end) {
      const uint32_t stage = shared + (row - begin) / Tile::rows % Tile::stages * Tile::stageBytes;
      for (int i = threadIdx.x; i < Tile::rows * Tile::columns / 8; i += Tile::threads) {
        const int line = i / (Tile::columns / 8), chunk = i % (Tile::columns / 8);
        op.dy.copy(panelAddress(stage + chunk / 8 * Tile::panelBytes, line, chunk % 8), row + line, column + 8 * chunk);
      }
      for (int i = threadIdx.x; i < Tile::rows * rank / 8; i += Tile::threads) {
        const int line = i / (rank / 8), chunk = i % (rank / 8);
        op.u.copy(stage + Tile::bytesOfDy + line * Tile::pitch + 16 * chunk, row + line, 8 * chunk);
      }
    }
    commitCopies();
  };

  for (int i = threadIdx.x; i < Tile::columns * rank / 8; i += Tile::threads) {
    const int line = i / (rank / 8), chunk = i % (rank / 8);
    op.b.copy(rowsOfB + line * Tile::pitch + 16 * chunk, column + line, 8 * chunk);
  }
  load(begin);
  const bool sumsD = warp < 4;
  float db[4][rank / 8][4] = {};
  for (int row = begin; row < end; row += Tile::rows) {
    load(row + Tile::rows);
    waitCopies<1>();
    __syncthreads();
    const uint32_t tile = shared + (row - begin) / Tile::rows % Tile::stages * Tile::stageBytes;
    uint32_t a[4], narrow[rank / 8][2];
    if (sumsD) {
      float d[rank / 8][4] = {};
#pragma unroll 4
      for (int depth = 0; depth < Tile::columns; depth += 16) {
        loadA<Order::byDepth>(a, tile, Tile::panelBytes, 16 * warp, depth);
        loadNarrow<rank>(narrow, rowsOfB, depth);
#pragma unroll
        for (int j = 0; j < rank / 8; j++) mma(d[j], a, narrow[j]);
      }
      storeNarrow<rank>(op.d + static_cast<int64_t>(blockIdx.x) * op.dy.rows * rank, d, row + 16 * warp, op.dy.rows);
    } else {
#pragma unroll
      for (int depth = 0; depth < Tile::rows; depth += 16) {
        loadNarrow<rank>(narrow, tile + Tile::bytesOfDy, depth);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          loadA<Order::byPosition>(a, tile, Tile::panelBytes, 64 * (warp - 4) + 16 * i, depth);
#pragma unroll
          for (int j = 0; j < rank / 8; j++) mma(db[i][j], a, narrow[j]);
        }
      }
    }
    __syncthreads();
  }
  if (sumsD) return;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    storeNarrow<rank>(op.db + static_cast<int64_t>(blockIdx.y) * op.dy.columns * rank, db[i],
                      column + 64 * (warp - 4) + 16 * i, op.dy.columns);
  }
}

// Adds up `stripes` matrices d, then `parts` matrices db: 8 neighbours in 4 lanes, each of which takes every fourth.
template <int rank>
__global__ void sumOutputPass(const OutputPass op, int stripes, int parts, Output d, Output db) {
  awaitPrevious();
  const int lane = threadIdx.x % 32, warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, index = warp * 8 + lane % 8,
            first = lane / 8, column = index % (rank / 8) * 8;
  int row = index / (rank / 8);
  const bool ofD = row < d.rows;
  const Output& to = ofD ? d : db;
  if (!ofD) row -= d.rows;
  const int count = ofD ? stripes : parts;
  const int64_t distance = int64_t{to.rows} * rank;
  float sum[8] = {};
  if (row < to.rows && first < count) {
    const float* from = (ofD ? op.d : op.db) + first * distance + row * rank + column;
    addParts(sum, from, 4 * distance, ceilDiv(count - first, 4));
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    sum[i] += __shfl_down_sync(0xffffffff, sum[i], 16);
    sum[i] += __shfl_down_sync(0xffffffff, sum[i], 8);
  }
  if (first == 0) to.store(row, column, sum);
}

// `d` [T, r] and `db` [N, r], with their alpha and beta.
template <int rank>
void queueOutputPass(const Bf16Matrix& dy, const Bf16Matrix& b, const Bf16Matrix& u, const Output& d, const Output& db,
                     cudaStream_t stream) {
  using Tile = OutputTile<rank>;
  // T and N, either of which may be 0: then there are no stripes, or no parts, and what is left is the sum of nothing.
  const int rows = d.rows, columns = db.rows;
  const int stripes = ceilDiv(columns, Tile::columns), tiles = ceilDiv(rows, Tile::rows),
            wanted = std::max(1, std::min(2 * multiprocessors() / std::max(1, stripes), tiles)),
            tilesOfPart = std::max(1, ceilDiv(tiles, wanted)), parts = ceilDiv(tiles, tilesOfPart);
  Scratch<float> partsOfD(int64_t{stripes} * rows * rank, stream), partsOfDb(int64_t{parts} * columns * rank, stream);
  const OutputPass op{dy, u, b, tilesOfPart * Tile::rows, partsOfD.data(), partsOfDb.data()};
  launchWithShared<outputPass<rank>, Tile::sharedBytes>(dim3(stripes, parts), Tile::threads, stream, op);
  const int threads = (rows + columns) * (rank / 8) * 4;
  launch(sumOutputPass<rank>, ceilDiv(threads, 256), 256, stream, op, stripes, parts, d, db);
}

}  // namespace loram
