// Where a GEMM's operands come from and where its result goes.
//
// A source hands out chunks of 8 neighbours in a row of a matrix, as bf16, zero beyond the matrix. With `async` it copies
// them to shared memory by itself (Bf16Matrix); otherwise fetch() starts the loads and decode() turns what they brought into bf16, so
// that a product can run between the two. prepare() fills the tables that decode() reads.
#pragma once
#include "../../cuda/bf16Matrix.cuh"
#include "../../cuda/dropout.cuh"
#include "../nf4/decode.cuh"

namespace loram {

// drop(matrix), with the mask of the elements' places in the unpadded matrix.
struct DroppedMatrix {
  static constexpr bool async = false;
  struct Fragment {
    uint4 values;
  };
  Bf16Matrix matrix;
  Dropout dropout;

  __device__ Fragment fetch(int row, int column) const {
    if (row >= matrix.rows || column >= matrix.columns) return {};
    return {__ldg(reinterpret_cast<const uint4*>(matrix.data + row * matrix.pitch + column))};
  }
  __device__ uint4 decode(const Fragment& fragment, int row, int column) const {
    const uint32_t kept = dropout.kept<8>(static_cast<int64_t>(row) * matrix.columns + column);
    const float scale = dropout.scale();
    const uint32_t in[4] = {fragment.values.x, fragment.values.y, fragment.values.z, fragment.values.w};
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool low = column + 2 * i < matrix.columns && kept >> (2 * i) & 1;
      const bool high = column + 2 * i + 1 < matrix.columns && kept >> (2 * i + 1) & 1;
      out[i] = packBf16(low ? lowBf16(in[i]) * scale : 0, high ? highBf16(in[i]) * scale : 0);
    }
    return {out[0], out[1], out[2], out[3]};
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
  __device__ uint4 decode(const Fragment& fragment, int, int) const {
    return nf4Decode<aligned>(fragment);
  }
  __device__ void prepare() const { fillNf4Table(); }
};

// c = drop(alpha * value) + beta * c, [rows, columns] in bf16 or f32. beta 0 does not read c.
struct Output {
  void* data;
  DType dtype;
  int64_t pitch;
  int rows, columns;
  float alpha = 1, beta = 0;
  Dropout dropout = {};

  // Elements `column` (even) and `column + 1` of a row.
  __device__ void store(int row, int column, float first, float second) const {
    if (row >= rows || column >= columns) return;
    first *= alpha, second *= alpha;
    if (dropout.probability > 0) {
      const uint32_t kept = dropout.kept<2>(static_cast<int64_t>(row) * columns + column);
      first = kept & 1 ? first * dropout.scale() : 0;
      second = kept & 2 ? second * dropout.scale() : 0;
    }
    const int64_t at = row * pitch + column;
    if (dtype == DType::bf16) {
      storeBf16(static_cast<__nv_bfloat16*>(data) + at, column + 1 < columns, first, second);
    } else {
      storeF32(static_cast<float*>(data) + at, column + 1 < columns, first, second);
    }
  }

 private:
  __device__ void storeBf16(__nv_bfloat16* c, bool both, float first, float second) const {
    if (both) {
      auto* pair = reinterpret_cast<uint32_t*>(c);
      const uint32_t old = beta == 0 ? 0 : *pair;
      *pair = packBf16(first + beta * lowBf16(old), second + beta * highBf16(old));
    } else {
      *c = __float2bfloat16(beta == 0 ? first : first + beta * __bfloat162float(*c));
    }
  }
  __device__ void storeF32(float* c, bool both, float first, float second) const {
    c[0] = beta == 0 ? first : first + beta * c[0];
    if (both) c[1] = beta == 0 ? second : second + beta * c[1];
  }
};

}  // namespace loram
