// LoRA's skinny products: their time is that of reading x and dy, and of adding to y and dx.
// The mask of x is applied where the tile is brought in, that of dx where the result goes out; neither is ever stored.
#include "../gemm/gemm.h"
#include "../gemm/sm80.cuh"
#include "../ops.h"
#include "backward.cuh"

namespace loram {
namespace {

template <class Op>
Dropout dropoutOf(const Op& op) {
  return {static_cast<uint64_t>(op.seed), static_cast<uint64_t>(op.stream), op.dropout};
}

// `body` with x, or with drop(x) where there is dropout.
template <class Op, class Body>
void withDropped(const Op& op, const Bf16Matrix& x, Body body) {
  op.dropout > 0 ? body(DroppedMatrix{x, dropoutOf(op)}) : body(x);
}

// d and db
void outputGradients(const Bf16Matrix& dy, const Bf16Matrix& b, const Bf16Matrix& u, const Output& d, const Output& db,
                     cudaStream_t stream) {
  if (u.columns <= 16) return queueOutputPass<16>(dy, b, u, d, db, stream);
  if (u.columns <= 32) return queueOutputPass<32>(dy, b, u, d, db, stream);
  gemmSm80<Order::byDepth, Order::byPosition>(dy, b, d, dy.columns, stream);
  gemmSm80<Order::byPosition, Order::byPosition>(dy, u, db, dy.rows, stream);
}

}  // namespace

void cuda(const LoraForward& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream), a(op.a, stream);
  withDropped(op, *x, [&](const auto& dropped) {
    gemmSm80<Order::byDepth, Order::byDepth>(dropped, *a, outputTo(op.u, op.scale, 0), x->columns, stream);
  });
  if (!op.y) return;
  const Bf16Operand u(op.u, stream), b(op.b, stream);
  multiply(Order::byDepth, *u, Order::byDepth, *b, {}, outputTo(op.y, 1, 1), u->columns, stream);
}

void cuda(const LoraOutputBackward& op, cudaStream_t stream) {
  const Bf16Operand dy(op.dy, stream), b(op.b, stream), u(op.u, stream);
  outputGradients(*dy, *b, *u, outputTo(op.d, op.scale, 0), outputTo(op.db, 1, 1), stream);
}

void cuda(const LoraInputBackward& op, cudaStream_t stream) {
  const Bf16Operand d(op.d, stream), x(op.x, stream);
  withDropped(op, *x, [&](const auto& dropped) {
    gemmSm80<Order::byPosition, Order::byPosition>(*d, dropped, outputTo(op.da, 1, 1), x->rows, stream);
  });
  if (!op.dx) return;
  const Bf16Operand a(op.a, stream);
  Output dx = outputTo(op.dx, 1, 1);
  dx.dropout = dropoutOf(op);
  multiply(Order::byDepth, *d, Order::byPosition, *a, {}, dx, d->columns, stream);
}

}  // namespace loram
