// The choice of kernel by shape and GPU.
#include "../ops.h"
#include "gemv.cuh"
#include "sm80.cuh"
#include "sm90.cuh"

namespace loram {
namespace {

Output outputTo(const Tensor& c, float alpha, float beta) {
  return {c.data, c.dtype, c.pitch, static_cast<int>(c.rows()), static_cast<int>(c.columns()), alpha, beta};
}

template <Order orderA, Order orderB>
void multiply(const Bf16Matrix& a, const Bf16Matrix& b, const Output& c, int depth, cudaStream_t stream) {
  if (!fitsSm90(c)) return gemmSm80<orderA, orderB>(a, b, c, depth, stream);
  c.dtype == DType::bf16 ? gemmSm90<orderA, orderB, __nv_bfloat16>(a, b, c, depth, stream)
                         : gemmSm90<orderA, orderB, float>(a, b, c, depth, stream);
}

template <Order orderA>
void multiply(const Bf16Matrix& a, bool byDepthB, const Bf16Matrix& b, const Output& c, int depth, cudaStream_t stream) {
  byDepthB ? multiply<orderA, Order::byDepth>(a, b, c, depth, stream)
           : multiply<orderA, Order::byPosition>(a, b, c, depth, stream);
}

// Weights of more bytes than this are dequantised and multiplied in slices.
constexpr int64_t sliceBytes = 512 << 20;

// y = x * w^T, or x * w, with w dequantised into scratch memory: its 2.5 bytes a weight cost less time than decoding it
// anew for every tile of y. Slices of x * w are added up in y.
template <bool aligned>
void multiplyDequantized(const Bf16Matrix& x, const Nf4Matrix<aligned>& w, bool transposed, Output y, cudaStream_t stream) {
  const int64_t pitch = paddedPitch(w.columns);
  const int rowsOfSlice = static_cast<int>(std::min<int64_t>(w.rows, sliceBytes / (2 * pitch) / 256 * 256));
  Scratch<__nv_bfloat16> memory(rowsOfSlice * pitch, stream);
  for (int row = 0; row < w.rows; row += rowsOfSlice) {
    const int rows = std::min(rowsOfSlice, w.rows - row);
    const Bf16Matrix slice{memory.data(), pitch, rows, w.columns};
    dequantizeNf4(w.weights, row, {memory.data(), DType::bf16, 2, {rows, w.columns}, pitch}, stream);
    if (transposed) {
      const Bf16Matrix part{x.data + row, x.pitch, x.rows, rows};
      multiply<Order::byDepth, Order::byPosition>(part, slice, y, rows, stream);
      y.beta = 1;
    } else {
      Output part = y;
      part.data = static_cast<uint8_t*>(y.data) + row * bytesPerElement(y.dtype);
      part.columns = rows;
      multiply<Order::byDepth, Order::byDepth>(x, slice, part, w.columns, stream);
    }
  }
}

template <bool aligned>
void multiplyNf4(const Nf4Gemm& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream);
  const Output y = outputTo(op.y, 1, op.beta);
  const int rows = op.transposed ? x->columns : y.columns, columns = op.transposed ? y.columns : x->columns;
  const Nf4Matrix<aligned> w{
      nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, int64_t{rows} * columns), rows, columns};
  if (y.rows <= gemvMaxTokens && !op.transposed) return queueGemv(w, *x, y, stream);
  if (y.rows > 64 && fitsSm90(y)) return multiplyDequantized(*x, w, op.transposed, y, stream);
  if (op.transposed) return gemmSm80<Order::byDepth, Order::byPosition>(*x, w, y, rows, stream);
  gemmSm80<Order::byDepth, Order::byDepth>(*x, w, y, columns, stream);
}

}  // namespace

void cuda(const Gemm& op, cudaStream_t stream) {
  const Bf16Operand a(op.a, stream), b(op.b, stream);
  const Output c = outputTo(op.c, op.alpha, op.beta);
  if (!op.transposeA && op.transposeB && c.rows <= gemvMaxTokens) return queueGemv(Bf16Rows(*b), *a, c, stream);
  if (op.transposeA) return multiply<Order::byPosition>(*a, op.transposeB, *b, c, a->rows, stream);
  multiply<Order::byDepth>(*a, op.transposeB, *b, c, a->columns, stream);
}

void cuda(const Nf4Gemm& op, cudaStream_t stream) {
  const int64_t columns = op.transposed ? op.y.columns() : op.x.columns();
  columns % 8 == 0 ? multiplyNf4<true>(op, stream) : multiplyNf4<false>(op, stream);
}

}  // namespace loram
