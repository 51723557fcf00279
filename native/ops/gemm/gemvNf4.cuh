// y[M,N] = x[M,K] * dequant(w)[N,K]^T + beta * y for M <= 16 and rows of whole blocks of 64: decoding from NF4
// Layout   as in gemv.cuh: w is mma's A operand, 16 rows a warp; a lane has 16 neighbouring codes of a block in each of
//          its two rows, and the same 16 values of x
// Decode   a byte is a pair of code book values in bf16, looked up in a table of 256 pairs with a copy for each lane
//          (32 KB): no two lanes meet in a bank. The products of a block are multiplied by its absmax in f32
//          afterwards, once for 64 weights. A weight is off by at most one rounding to bf16, as everywhere
// Blocks   persistent, two a multiprocessor, over groups of 16 rows; 8 warps share K, a few blocks at a time, and add
//          up in order: two runs give the same bits
// Floor    bytes of w / memory bandwidth: 44 us at 28672 x 8192 and 3.0 TB/s
// Measured 75 us there, H100, 2026-11-24: it waits for memory more than it should; bench/notes/gemm.md
#pragma once
#include "gemv.cuh"

namespace loram {

__device__ inline void fillPairTable(uint32_t* table) {
  for (int i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
    const int byte = i / 32;
    table[i] = packBf16(nf4Values.values[byte >> 4], nf4Values.values[byte & 15]);
  }
}

// The pairs of a word's four bytes, from the lane's copy of the table.
__device__ inline void lookUpPairs(uint32_t (&pairs)[4], const uint32_t* table, uint32_t codes) {
  const char* lane = reinterpret_cast<const char*>(table + threadIdx.x % 32);
  const auto pair = [&](uint32_t offset) { return *reinterpret_cast<const uint32_t*>(lane + (offset & 0x7f80)); };
  pairs[0] = pair(codes << 7), pairs[1] = pair(codes >> 1), pairs[2] = pair(codes >> 9), pairs[3] = pair(codes >> 17);
}

template <int tokenTiles>
__global__ void __launch_bounds__(32 * gemvWarps, 2) gemvNf4(const Nf4Weights w, const Bf16Matrix x, const Output y) {
  constexpr int rows = 16, tokens = 8 * tokenTiles, inFlight = 4 / tokenTiles;
  __shared__ uint32_t table[256 * 32];
  __shared__ float sums[gemvWarps][tokens][rows + 1];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32, blocks = x.columns / nf4Block;
  fillPairTable(table);
  __syncthreads();
  awaitPrevious();

  for (int firstRow = blockIdx.x * rows; firstRow < y.columns; firstRow += gridDim.x * rows) {
    float total[tokenTiles][4] = {};
    for (int first = warp * inFlight; first < blocks; first += gemvWarps * inFlight) {
      uint2 codes[inFlight][2];
      float scale[inFlight][2];
#pragma unroll
      for (int i = 0; i < inFlight; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = firstRow + g + 8 * half;
          const bool inside = first + i < blocks && row < y.columns;
          const int64_t block = inside ? static_cast<int64_t>(row) * blocks + first + i : 0;
          codes[i][half] = __ldg(reinterpret_cast<const uint2*>(w.packed + block * 8) + t);
          scale[i][half] = inside ? w.scale(block) : 0;
        }
      }
#pragma unroll
      for (int i = 0; i < inFlight; i++) {
        const int column = (first + i) * nf4Block + 16 * t;
        uint32_t above[2][4], below[2][4];
        lookUpPairs(above[0], table, codes[i][0].x), lookUpPairs(above[1], table, codes[i][0].y);
        lookUpPairs(below[0], table, codes[i][1].x), lookUpPairs(below[1], table, codes[i][1].y);
#pragma unroll
        for (int n = 0; n < tokenTiles; n++) {
          float c[4] = {};
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const uint4 v = x.fetch(8 * n + g, column + 8 * half);
            mma(c, {above[half][0], below[half][0], above[half][1], below[half][1]}, {v.x, v.y});
            mma(c, {above[half][2], below[half][2], above[half][3], below[half][3]}, {v.z, v.w});
          }
#pragma unroll
          for (int e = 0; e < 4; e++) total[n][e] += scale[i][e / 2] * c[e];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < tokenTiles; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) sums[warp][8 * n + 2 * t + e % 2][g + e / 2 * 8] = total[n][e];
    }
    storeSums(sums, firstRow, y);
  }
}

inline void queueGemvNf4(const Nf4Weights& w, const Bf16Matrix& x, const Output& y, cudaStream_t stream) {
  const int blocks = std::min(ceilDiv(y.columns, 16), 2 * multiprocessors());
  launch(y.rows <= 8 ? gemvNf4<1> : gemvNf4<2>, blocks, 32 * gemvWarps, stream, w, x, y);
}

}  // namespace loram
