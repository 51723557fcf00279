// What attention's kernels share: who works on what, and how rows come to shared memory.
//
// The queries of all heads that read one kv head are the rows of one matrix: row r is query r / size, head r % size. So
// a tile of keys serves a whole group of heads, and a single query while decoding still fills a tile with several rows.
#pragma once
#include <algorithm>

#include "../../cuda/bf16Matrix.cuh"
#include "../../cuda/mma.cuh"
#include "../../cuda/pipeline.cuh"

namespace loram::attention {

constexpr int keysPerTile = 64, threads = 128, warps = threads / 32;
constexpr float log2e = 1.4426950408889634f;

// 2^x to 2 units in the last place, zero where the result would be subnormal.
__device__ inline float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A [tokens, heads * headDim] matrix, bf16 or f32 where it is written.
struct Heads {
  void* data;
  DType dtype;
  int64_t pitch;

  __device__ int64_t offset(int token, int head, int headDim) const { return token * pitch + head * headDim; }
  __device__ const __nv_bfloat16* row(int token, int head, int headDim) const {
    return static_cast<const __nv_bfloat16*>(data) + offset(token, head, headDim);
  }
  __device__ void store(int64_t at, float first, float second) const {
    if (dtype == DType::bf16) {
      *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(data) + at) = packBf16(first, second);
    } else {
      static_cast<float*>(data)[at] = first, static_cast<float*>(data)[at + 1] = second;
    }
  }
};

inline Heads heads(const Tensor& tensor) { return {tensor.data, tensor.dtype, tensor.pitch}; }
inline Heads heads(const Bf16Operand& matrix) {
  return {const_cast<__nv_bfloat16*>(matrix->data), DType::bf16, matrix->pitch};
}

// More keys than there are, and so few that sums with it do not overflow.
constexpr int64_t endlessWindow = int64_t{1} << 30;

struct Shape {
  int headDim, sequences, queryHeads, size;  // `size` query heads read one kv head
  int window;                                // how many keys a query sees
  float scaleLog2;                           // of a score, for exp2
  uint64_t magic;                            // r / size = r * magic >> 32

  Shape(int64_t headDim, int64_t window, const Tensor& bounds, const Tensor& q, const Tensor& k)
      : headDim(static_cast<int>(headDim)),
        sequences(static_cast<int>(bounds.elements()) - 1),
        queryHeads(static_cast<int>(q.columns() / headDim)),
        size(static_cast<int>(q.columns() / k.columns())),
        window(static_cast<int>(window > 0 ? std::min(window, endlessWindow) : endlessWindow)),
        scaleLog2(static_cast<float>(log2e / std::sqrt(static_cast<double>(headDim)))),
        magic(((uint64_t{1} << 32) + size - 1) / size) {}
};

// One kv head in one sequence.
struct Group {
  int rows, keys, firstQuery, firstKey, firstHead, kvHead, size, headDim, window, visibleToFirst;
  uint64_t magic;

  __device__ Group(const Shape& shape, const int32_t* queryBounds, const int32_t* keyBounds, int sequence, int kvHead)
      : rows((queryBounds[sequence + 1] - queryBounds[sequence]) * shape.size),
        keys(keyBounds[sequence + 1] - keyBounds[sequence]),
        firstQuery(queryBounds[sequence]),
        firstKey(keyBounds[sequence]),
        firstHead(kvHead * shape.size),
        kvHead(kvHead),
        size(shape.size),
        headDim(shape.headDim),
        window(shape.window),
        magic(shape.magic) {
    visibleToFirst = keys - query(rows) + 1;
  }

  __device__ int query(int r) const { return static_cast<int>(r * magic >> 32); }
  __device__ int token(int r) const { return firstQuery + query(r); }
  __device__ int head(int r) const { return firstHead + r - query(r) * size; }
  // Row r sees the keys [firstVisible(r), endVisible(r)): the ends of queries and keys are aligned.
  __device__ int endVisible(int r) const { return query(r) + visibleToFirst; }
  __device__ int firstVisible(int r) const { return max(0, endVisible(r) - window); }

  __device__ const __nv_bfloat16* row(const Heads& x, int r) const {
    return r < rows ? x.row(token(r), head(r), headDim) : nullptr;
  }
  __device__ const __nv_bfloat16* key(const Heads& x, int j) const {
    return j < keys ? x.row(firstKey + j, kvHead, headDim) : nullptr;
  }
};

// Whether a row of which `last` is the last key sees `key`: last - window < key <= last.
__device__ inline bool inWindow(int key, int last, int window) {
  return static_cast<unsigned>(last - key) < static_cast<unsigned>(window);
}

struct Work {
  int sequence, tile, tiles;  // of the sequence
};

// The index-th tile of all sequences' tiles, sequence -1 when there are fewer. A sequence has `size` rows per token.
// The host does not know the bounds, so it launches as many blocks as there could be tiles.
__device__ inline Work findWork(const int32_t* bounds, int sequences, int size, int tileRows, int index) {
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < sequences; first += 32) {
    const int s = first + lane;
    const int tiles = s < sequences ? ceilDiv((bounds[s + 1] - bounds[s]) * size, tileRows) : 0;
    int end = tiles;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_up_sync(0xffffffff, end, distance);
      if (lane >= distance) end += before;
    }
    const uint32_t beyond = __ballot_sync(0xffffffff, index < end);
    if (beyond) {
      const int owner = __ffs(beyond) - 1;
      const int ownerTiles = __shfl_sync(0xffffffff, tiles, owner), ownerEnd = __shfl_sync(0xffffffff, end, owner);
      return {first + owner, index - (ownerEnd - ownerTiles), ownerTiles};
    }
    index -= __shfl_sync(0xffffffff, end, 31);
  }
  return {-1, 0, 0};
}

inline unsigned mostTiles(int64_t tokens, const Shape& shape, int tileRows) {
  return static_cast<unsigned>(ceilDiv(tokens * shape.size, int64_t{tileRows}) + shape.sequences);
}

// Head dimensions are padded to `dim` with zeros; a row takes a piece of each of dim / 64 panels.
template <int dim>
constexpr int panelsOf = ceilDiv(dim, panelColumns);
template <int dim, int rows>
constexpr int tileBytes = rows * 128 * panelsOf<dim>;

// Starts the copy of a tile [rows, dim]; source(r) is where row r begins, null for a row of zeros.
template <int dim, int rows, class Source>
__device__ void loadTile(uint32_t tile, int headDim, const void* anywhere, Source source) {
  constexpr int chunks = dim / 8;
#pragma unroll
  for (int i = threadIdx.x; i < rows * chunks; i += threads) {
    const int row = i / chunks, chunk = i % chunks;
    const __nv_bfloat16* from = source(row);
    const bool inside = from && chunk * 8 < headDim;
    copyAsync(panelAddress(tile + chunk / 8 * rows * 128, row, chunk % 8), inside ? from + chunk * 8 : anywhere,
              inside ? 16 : 0);
  }
}

// c[mTiles * 16, columns] += a * b^T, both [.., dim] tiles by depth, from rows `rowA` and `rowB`.
template <int dim, int rowsA, int rowsB, int mTiles, int columns>
__device__ void multiplyTransposed(float (&c)[mTiles][columns / 8][4], uint32_t a, int rowA, uint32_t b, int rowB) {
#pragma unroll
  for (int depth = 0; depth < dim; depth += 16) {
    uint32_t left[mTiles][4];
#pragma unroll
    for (int i = 0; i < mTiles; i++) loadA<Order::byDepth>(left[i], a, rowsA * 128, rowA + 16 * i, depth);
#pragma unroll
    for (int j = 0; j < columns / 8; j += 2) {
      uint32_t right[2][2];
      loadB<Order::byDepth>(right, b, rowsB * 128, rowB + 8 * j, depth);
#pragma unroll
      for (int i = 0; i < mTiles; i++) mma(c[i][j], left[i], right[0]), mma(c[i][j + 1], left[i], right[1]);
    }
  }
}

// c[mTiles * 16, dim] += p * b: p is another product's result, rounded, and b the rows from `rowB` of a [.., dim] tile.
template <int dim, int rowsB, int mTiles, int columns>
__device__ void multiplyResult(float (&c)[mTiles][dim / 8][4], const float (&p)[mTiles][columns / 8][4], uint32_t b,
                               int rowB) {
#pragma unroll
  for (int depth = 0; depth < columns; depth += 16) {
    uint32_t left[mTiles][4];
#pragma unroll
    for (int i = 0; i < mTiles; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float(&pair)[4] = p[i][depth / 8 + half];
        left[i][2 * half] = packBf16(pair[0], pair[1]), left[i][2 * half + 1] = packBf16(pair[2], pair[3]);
      }
    }
#pragma unroll
    for (int j = 0; j < dim / 8; j += 2) {
      uint32_t right[2][2];
      loadB<Order::byPosition>(right, b, rowsB * 128, 8 * j, rowB + depth);
#pragma unroll
      for (int i = 0; i < mTiles; i++) mma(c[i][j], left[i], right[0]), mma(c[i][j + 1], left[i], right[1]);
    }
  }
}

}  // namespace loram::attention
