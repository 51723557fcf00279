#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "../../cuda/device.cuh"
#include "../ops.h"
#include "backward.cuh"
#include "forward.cuh"

namespace loram {
namespace {

using namespace attention;

// Calls `body` with the padded head dimension as a constant.
template <class Body>
void forDim(int headDim, Body body) {
  if (headDim <= 32) return body(std::integral_constant<int, 32>{});
  if (headDim <= 64) return body(std::integral_constant<int, 64>{});
  body(std::integral_constant<int, 128>{});
}

template <int mTiles>
void queueForward(const Forward& op, int64_t tokens, unsigned kvHeads, cudaStream_t stream) {
  forDim(op.shape.headDim, [&](auto dim) {
    constexpr int rows = 16 * mTiles * warps, bytes = tileBytes<dim, rows> + 4 * tileBytes<dim, keysPerTile>;
    const dim3 grid(mostTiles(tokens, op.shape, rows), kvHeads, op.splits);
    launchWithShared(forward<dim, mTiles>, grid, threads, bytes, stream, op);
  });
}

}  // namespace

void cuda(const Attention& op, cudaStream_t stream) {
  const Bf16Operand q(op.q, stream), k(op.k, stream), v(op.v, stream);
  const Shape shape(op.headDim, op.queryBounds, op.q, op.k);
  const int tokens = q->rows, kvHeads = shape.queryHeads / shape.size, processors = multiprocessors();
  Forward forward{shape, heads(q), heads(k), heads(v), heads(op.y), op.queryBounds.as<int32_t>(),
                  op.keyBounds.as<int32_t>(), op.lse.as<float>(), 1, tokens};
  if (int64_t{tokens} * shape.queryHeads >= 128 * processors) {
    return queueForward<2>(forward, tokens, kvHeads, stream);
  }
  const int blocks = std::max(ceilDiv(tokens * shape.size, 16 * warps), shape.sequences) * kvHeads;
  const int keys = ceilDiv(k->rows, shape.sequences);
  forward.splits = std::clamp(ceilDiv(keys, 4 * keysPerTile), 1, std::max(1, 2 * processors / blocks));
  if (forward.splits == 1) return queueForward<1>(forward, tokens, kvHeads, stream);
  const int64_t lines = int64_t{forward.splits} * tokens;
  Scratch<float> y(lines * q->columns, stream), lse(lines * shape.queryHeads, stream);
  forward.y = {y.data(), DType::f32, q->columns};
  forward.lse = lse.data();
  queueForward<1>(forward, tokens, kvHeads, stream);
  launch(combineParts, ceilDiv(tokens * shape.queryHeads, 4), 128, stream, forward, heads(op.y), op.lse.as<float>());
}

void cuda(const AttentionBackward& op, cudaStream_t stream) {
  const Bf16Operand dy(op.dy, stream), q(op.q, stream), k(op.k, stream), v(op.v, stream), y(op.y, stream);
  const Shape shape(op.headDim, op.bounds, op.q, op.k);
  const int64_t lines = int64_t{q->rows} * shape.queryHeads;
  const unsigned kvHeads = shape.queryHeads / shape.size;
  Scratch<float> delta(lines, stream);
  launch(rowDelta, static_cast<unsigned>(ceilDiv(lines, int64_t{8})), 256, stream, heads(dy), heads(y), lines,
         shape.queryHeads, shape.headDim, delta.data());
  const Backward backward{shape,        heads(dy),    heads(q),          heads(k),     heads(v),
                          heads(op.dq), heads(op.dk), heads(op.dv),      op.lse.as<float>(), delta.data(),
                          op.bounds.as<int32_t>()};
  forDim(shape.headDim, [&](auto dim) {
    constexpr int bytes = 6 * tileBytes<dim, rowsPerTile> + 2 * sizeof(RowFacts);
    Shape perToken = shape;
    perToken.size = 1;
    launchWithShared(backwardKeys<dim>, dim3(mostTiles(q->rows, perToken, keysPerTile), kvHeads), threads, bytes, stream, backward);
    launchWithShared(backwardRows<dim>, dim3(mostTiles(q->rows, shape, rowsPerTile), kvHeads), threads, bytes, stream, backward);
  });
}

}  // namespace loram
