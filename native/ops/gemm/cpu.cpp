#include "../../cpu/gemm.h"

#include "../ops.h"

namespace loram {

namespace {

void addLowRank(const Tensor& left, const Tensor& right, bool transposeRight, float alpha, const Tensor& c) {
  if (!left) return;
  const int64_t M = c.shape[0], N = c.shape[1], r = left.shape[1];
  const GemmRight b{right.as<const float>(), right.pitch, transposeRight};
  gemm({M, N, r, {left.as<float>(), left.pitch}, b, {c.as<float>(), c.pitch}, alpha, 1});
}

}  // namespace

void cpu(const Gemm& op) {
  const int64_t M = op.c.shape[0], N = op.c.shape[1], K = op.a.shape[op.transposeA ? 0 : 1];
  GemmRight b{op.b.as<const float>(), op.b.pitch, op.transposeB};
  if (op.b.dtype == DType::bf16) b.data = op.b.as<const Bf16>();
  const FloatMatrix a{op.a.as<float>(), op.a.pitch, op.transposeA};
  gemm({M, N, K, a, b, {op.c.as<float>(), op.c.pitch}, op.alpha, op.beta});
  addLowRank(op.left, op.right, op.transposeB, op.alpha, op.c);
}

void cpu(const Nf4Gemm& op) {
  const int64_t M = op.x.shape[0], inX = op.x.shape[1], inY = op.y.shape[1];
  const Nf4View w(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset);
  const GemmRight right{w, op.transposed ? inY : inX, !op.transposed};
  gemm({M, inY, inX, {op.x.as<float>(), op.x.pitch}, right, {op.y.as<float>(), op.y.pitch}, 1, op.beta});
  addLowRank(op.left, op.right, !op.transposed, 1, op.y);
}

}  // namespace loram
