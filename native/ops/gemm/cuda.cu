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

template <bool aligned>
void multiplyNf4(const Nf4Gemm& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream);
  const int inX = x->columns, inY = static_cast<int>(op.y.columns());
  const int rows = op.transposed ? inX : inY, columns = op.transposed ? inY : inX;
  const auto weights = nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, int64_t{rows} * columns);
  const Nf4Matrix<aligned> w{weights, rows, columns};
  if (!op.transposed && x->rows <= gemvMaxTokens) return queueGemv(w, *x, outputTo(op.y, 1, op.beta), stream);
  const Output y = outputTo(op.y, 1, op.beta);
  op.transposed ? gemmSm80<Order::byDepth, Order::byPosition>(*x, w, y, inX, stream)
                : gemmSm80<Order::byDepth, Order::byDepth>(*x, w, y, inX, stream);
}

}  // namespace

void cuda(const Gemm& op, cudaStream_t stream) {
  const Bf16Operand a(op.a, stream), b(op.b, stream);
  const Output c = outputTo(op.c, op.alpha, op.beta);
  if (!op.transposeA && op.transposeB && c.rows <= gemvMaxTokens) return queueGemv(Bf16Rows{*b}, *a, c, stream);
  if (op.transposeA) return multiply<Order::byPosition>(*a, op.transposeB, *b, c, a->rows, stream);
  multiply<Order::byDepth>(*a, op.transposeB, *b, c, a->columns, stream);
}

void cuda(const Nf4Gemm& op, cudaStream_t stream) {
  const int64_t columns = op.transposed ? op.y.columns() : op.x.columns();
  columns % 8 == 0 ? multiplyNf4<true>(op, stream) : multiplyNf4<false>(op, stream);
}

}  // namespace loram
