// LoRA's skinny products, all by gemm's kernels: their time is that of reading x and dy, and of adding to y and dx.
// The mask of x is applied where the tile is brought in, that of dx where the result goes out; neither is ever stored.
#include "../gemm/sm80.cuh"
#include "../ops.h"

namespace loram {
namespace {

Output addTo(const Tensor& c, float alpha) {
  return {c.data, c.dtype, c.pitch, static_cast<int>(c.rows()), static_cast<int>(c.columns()), alpha, 1};
}

template <class Op>
Dropout dropoutOf(const Op& op) {
  return {static_cast<uint64_t>(op.seed), static_cast<uint64_t>(op.stream), op.dropout};
}

// `body` with x, or with drop(x) where there is dropout.
template <class Op, class Body>
void withDropped(const Op& op, const Bf16Matrix& x, Body body) {
  op.dropout > 0 ? body(DroppedMatrix{x, dropoutOf(op)}) : body(x);
}

// gemmSm80 for a c with few rows or columns.
template <Order orderA, Order orderB, class SourceA, class SourceB>
void skinny(const SourceA& a, const SourceB& b, const Output& c, int depth, cudaStream_t stream) {
  if (c.columns <= TallTile::N) return gemmSm80With<TallTile, orderA, orderB>(a, b, c, depth, stream);
  if (c.rows <= WideTile::M) return gemmSm80With<WideTile, orderA, orderB>(a, b, c, depth, stream);
  gemmSm80With<SmallTile, orderA, orderB>(a, b, c, depth, stream);
}

}  // namespace

void cuda(const LoraForward& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream), a(op.a, stream), b(op.b, stream);
  const int r = a->rows;
  Output u = addTo(op.u, 1);
  u.beta = 0;
  withDropped(op, *x, [&](const auto& dropped) {
    skinny<Order::byDepth, Order::byDepth>(dropped, *a, u, x->columns, stream);
  });
  gemmSm80<Order::byDepth, Order::byDepth>(*Bf16Operand(op.u, stream), *b, addTo(op.y, op.scale), r, stream);
}

void cuda(const LoraBackward& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream), a(op.a, stream), b(op.b, stream), u(op.u, stream), dy(op.dy, stream);
  const int T = x->rows, r = a->rows, N = dy->columns;
  Scratch<__nv_bfloat16> memory(T * paddedPitch(r), stream);
  const Bf16Matrix d{memory.data(), paddedPitch(r), T, r};
  skinny<Order::byDepth, Order::byPosition>(
      *dy, *b, Output{memory.data(), DType::bf16, d.pitch, T, r, op.scale}, N, stream);
  skinny<Order::byPosition, Order::byPosition>(*dy, *u, addTo(op.db, op.scale), T, stream);
  withDropped(op, *x, [&](const auto& dropped) {
    skinny<Order::byPosition, Order::byPosition>(d, dropped, addTo(op.da, 1), T, stream);
  });
  Output dx = addTo(op.dx, 1);
  dx.dropout = dropoutOf(op);
  gemmSm80<Order::byDepth, Order::byPosition>(d, *a, dx, r, stream);
}

}  // namespace loram
