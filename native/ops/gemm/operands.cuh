// Where a GEMM's operands come from and where its result goes.
//
// A source hands out chunks of 8 neighbours in a row of a matrix, as bf16, zero beyond the matrix. With `async` it
// copies them to shared memory by itself (Bf16Matrix); otherwise fetch() starts the loads and decode() turns what they
// brought into bf16, so that a product can run between the two. prepare() fills the tables that decode() reads.
#pragma once
#include "../../cuda/bf16Matrix.cuh"
#include "../../cuda/dropout.cuh"
#include "../nf4/decode.cuh"

namespace loram {

// drop(matrix), with the mask of the elements' places in the unpadded matrix.
struct DroppedMatrix {
  static constexpr bool async = false;
  using Fragment = Bf16Matrix::Fragment;
  Bf16Matrix matrix;
  Dropout dropout;

  __device__ Fragment fetch(int row, int column) const { return matrix.fetch(row, column); }
  __device__ uint4 decode(const Fragment& fragment, int row, int column) const {
    const uint32_t kept = dropout.kept(static_cast<int64_t>(row) * matrix.columns + column);
    const float scale = dropout.scale();
    const auto drop = [&](uint32_t pair, int first) {
      return packBf16(kept >> first & 1 ? lowBf16(pair) * scale : 0, kept >> first & 2 ? highBf16(pair) * scale : 0);
    };
    const uint4 v = matrix.decode(fragment, row, column);
    return {drop(v.x, 0), drop(v.y, 2), drop(v.z, 4), drop(v.w, 6)};
  }
  __device__ void prepare() const {}
};

// For gemv, whose lanes go over rows 128 elements at a time, four chunks each.
struct Bf16Rows : Bf16Matrix {
  // Where chunk j of lane t begins.
  static __device__ int offset(int t, int j) { return 32 * j + 8 * t; }
  __device__ void fetchRun(Fragment (&run)[4], int row, int column, int t) const {
#pragma unroll
    for (int j = 0; j < 4; j++) run[j] = fetch(row, column + offset(t, j));
  }
  __device__ void prepare() const {}
};

// A quantised matrix [rows, columns]. `aligned`: columns % 8 == 0. Not zero beyond a row's end, where the next row's
// weights follow: finite, so the zeros of the other operand make nothing of them.
template <bool aligned>
struct Nf4Matrix {
  static constexpr bool async = false;
  using Fragment = Nf4Chunk;
  Nf4Weights weights;
  int rows, columns;

  __device__ Fragment fetch(int row, int column) const {
    if (row >= rows || column >= columns) return {};
    return weights.fetch<aligned>(static_cast<int64_t>(row) * columns + column);
  }
  __device__ uint4 decode(const Fragment& fragment, int, int) const { return nf4Decode<aligned>(fragment); }
  __device__ void prepare() const { fillNf4Table(); }

  // For gemv, as in Bf16Rows; here the 32 codes of a lane are 16 bytes, of one block if rows begin with a block's half.
  static __device__ int offset(int t, int j) { return 32 * t + 8 * j; }
  __device__ void fetchRun(Fragment (&run)[4], int row, int column, int t) const {
    if (columns % 32 == 0 && row < rows && column + offset(t, 0) < columns) {
      weights.fetchRun(run, static_cast<int64_t>(row) * columns + column + offset(t, 0));
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) run[j] = fetch(row, column + offset(t, j));
    }
  }
};

// c = drop(alpha * value) + beta * c, [rows, columns] in bf16 or f32. beta 0 does not read c.
struct Output {
  void* data;
  DType dtype;
  int64_t pitch;
  int rows, columns;
  float alpha = 1, beta = 0;
  Dropout dropout = {};

  // Eight neighbours in a row, `column` being a multiple of 8.
  __device__ void store(int row, int column, float (&value)[8]) const {
    if (row >= rows || column >= columns) return;
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] *= alpha;
    if (dropout.probability > 0) {
      const uint32_t kept = dropout.kept(static_cast<int64_t>(row) * columns + column);
#pragma unroll
      for (int i = 0; i < 8; i++) value[i] = kept >> i & 1 ? value[i] * dropout.scale() : 0;
    }
    const int64_t at = row * pitch + column;
    if (dtype == DType::bf16) {
      storeTo(static_cast<__nv_bfloat16*>(data) + at, columns - column, value);
    } else {
      storeTo(static_cast<float*>(data) + at, columns - column, value);
    }
  }

 private:
  __device__ void storeTo(__nv_bfloat16* c, int count, const float (&v)[8]) const {
    if (count < 8) return storeSome(c, count, v);
    auto* chunk = reinterpret_cast<uint4*>(c);
    const uint4 old = beta == 0 ? uint4{} : *chunk;
    const auto sum = [&](uint32_t pair, int i) {
      return packBf16(v[i] + beta * lowBf16(pair), v[i + 1] + beta * highBf16(pair));
    };
    *chunk = {sum(old.x, 0), sum(old.y, 2), sum(old.z, 4), sum(old.w, 6)};
  }
  __device__ void storeTo(float* c, int count, const float (&v)[8]) const {
    if (count < 8 || reinterpret_cast<uintptr_t>(c) % sizeof(float4) != 0) return storeSome(c, min(count, 8), v);
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      auto* chunk = reinterpret_cast<float4*>(c + i);
      const float4 old = beta == 0 ? float4{} : *chunk;
      *chunk = {v[i] + beta * old.x, v[i + 1] + beta * old.y, v[i + 2] + beta * old.z, v[i + 3] + beta * old.w};
    }
  }
  template <class T>
  __device__ void storeSome(T* c, int count, const float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i < count) c[i] = T(beta == 0 ? v[i] : v[i] + beta * static_cast<float>(c[i]));
    }
  }
};

inline Output outputTo(const Tensor& c, float alpha, float beta) {
  return {c.data, c.dtype, c.pitch, static_cast<int>(c.rows()), static_cast<int>(c.columns()), alpha, beta};
}

// Adds 8 neighbours.
__device__ inline void add(float (&sum)[8], float4 low, float4 high) {
  sum[0] += low.x, sum[1] += low.y, sum[2] += low.z, sum[3] += low.w;
  sum[4] += high.x, sum[5] += high.y, sum[6] += high.z, sum[7] += high.w;
}

struct TilePlace {
  int m, n;
};

// Tiles in columns of 8, so that those in flight together share their operands in the second-level cache.
__device__ inline TilePlace tilePlace(int index, int tilesM, int tilesN) {
  constexpr int group = 8;
  const int first = index / (group * tilesN) * group, within = index % (group * tilesN);
  const int rows = min(group, tilesM - first);
  return {first + within % rows, within / rows};
}

}  // namespace loram
