#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "../../cuda/device.cuh"
#include "../../cuda/launch.cuh"
#include "../ops.h"
#include "backwardSm90.cuh"
#include "forwardSm90.cuh"

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
    launchWithShared<forward<dim, mTiles>, bytes>(grid, threads, stream, op);
  });
}

template <int dim>
void queueForwardSm90(const Forward& op, int keys, cudaStream_t stream) {
  using Shared = ForwardShared<dim>;
  const Shape& shape = op.shape;
  const int kvHeads = shape.queryHeads / shape.size;
  const HopperForward args{headMap(op.q, op.tokens, shape.queryHeads, dim, consumerRows),
                           headMap(op.k, keys, kvHeads, dim, Shared::keys),
                           headMap(op.v, keys, kvHeads, dim, Shared::keys), op};
  launchWithShared<forwardSm90<dim>, Shared::bytes>(
      dim3(shape.queryHeads, ceilDiv(op.tokens, blockRows) + shape.sequences), hopperThreads, stream, args);
}

// Hopper's kernels take one head a block, and want its tiles full.
bool fitsSm90(const Shape& shape, int tokens) {
  return deviceAttribute<cudaDevAttrComputeCapabilityMajor>() == 9 && (shape.headDim == 64 || shape.headDim == 128) &&
         tokens >= blockRows * shape.sequences;
}

template <int dim>
void queueBackwardSm90(const Backward& op, cudaStream_t stream) {
  using Shared = BackwardShared<dim>;
  const int heads = op.shape.queryHeads, kvHeads = heads / op.shape.size, columns = kvHeads * dim;
  const int tiles = ceilDiv(op.tokens, blockRows) + op.shape.sequences;
  const int parts = std::clamp(multiprocessors() / (tiles * kvHeads), 1, op.shape.size);
  HopperBackward args{
      headMap(op.q, op.tokens, heads, dim, 64),
      headMap(op.dy, op.tokens, heads, dim, 64),
      headMap(op.k, op.tokens, kvHeads, dim, 64),
      headMap(op.v, op.tokens, kvHeads, dim, 64),
      tensorMap(op.stats, DType::f32, 4 * op.tokens, heads, 4 * op.tokens, 1, 4 * 64, CU_TENSOR_MAP_SWIZZLE_NONE),
      op,
      parts};
  launchWithShared<backwardRowsSm90<dim>, Shared::bytes>(dim3(heads, tiles), hopperThreads, stream, args);
  const int64_t elements = parts > 1 ? int64_t{parts} * op.tokens * columns : 0;
  Scratch<float> dk(elements, stream), dv(elements, stream);
  if (parts > 1) args.op.dk = {dk.data(), DType::f32, columns}, args.op.dv = {dv.data(), DType::f32, columns};
  launchWithShared<backwardKeysSm90<dim>, Shared::bytes>(dim3(kvHeads, tiles, parts), hopperThreads, stream, args);
  if (parts == 1) return;
  const auto blocks = static_cast<unsigned>(ceilDiv(int64_t{op.tokens} * columns, int64_t{512}));
  launch(sumParts, blocks, 256, stream, dk.data(), parts, int64_t{op.tokens}, columns, op.dk);
  launch(sumParts, blocks, 256, stream, dv.data(), parts, int64_t{op.tokens}, columns, op.dv);
}

}  // namespace

void cuda(const Attention& op, cudaStream_t stream) {
  if (op.q.rows() == 0) return;  // and perhaps no sequence, to share the keys among
  const Bf16Operand q(op.q, stream), k(op.k, stream), v(op.v, stream);
  const Shape shape(op.headDim, op.window, op.queryBounds, op.q, op.k);
  const int tokens = q->rows, kvHeads = shape.queryHeads / shape.size, processors = multiprocessors();
  Forward forward{shape,
                  heads(q),
                  heads(k),
                  heads(v),
                  heads(op.y),
                  op.queryBounds.as<int32_t>(),
                  op.keyBounds.as<int32_t>(),
                  op.lse.as<float>(),
                  1,
                  tokens};
  if (fitsSm90(shape, tokens)) {
    return shape.headDim == 64 ? queueForwardSm90<64>(forward, k->rows, stream)
                               : queueForwardSm90<128>(forward, k->rows, stream);
  }
  if (int64_t{tokens} * shape.queryHeads >= 128 * processors) {
    return queueForward<2>(forward, tokens, kvHeads, stream);
  }
  const int blocks = std::max(ceilDiv(tokens * shape.size, 16 * warps), shape.sequences) * kvHeads;
  const int keys = std::min(ceilDiv(k->rows, shape.sequences), shape.window);
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
  if (op.q.rows() == 0) return;
  const Bf16Operand dy(op.dy, stream), q(op.q, stream), k(op.k, stream), v(op.v, stream), y(op.y, stream);
  const Shape shape(op.headDim, op.window, op.bounds, op.q, op.k);
  const int64_t lines = int64_t{q->rows} * shape.queryHeads;
  const unsigned kvHeads = shape.queryHeads / shape.size;
  Scratch<RowStats> stats(lines, stream);
  launch(findStats, static_cast<unsigned>(ceilDiv(lines, int64_t{8})), 256, stream, heads(dy), heads(y),
         op.lse.as<float>(), q->rows, shape.queryHeads, shape.headDim, stats.data());
  const Backward backward{shape,
                          heads(dy),
                          heads(q),
                          heads(k),
                          heads(v),
                          heads(op.dq),
                          heads(op.dk),
                          heads(op.dv),
                          stats.data(),
                          q->rows,
                          op.bounds.as<int32_t>()};
  if (fitsSm90(shape, q->rows)) {
    return shape.headDim == 64 ? queueBackwardSm90<64>(backward, stream) : queueBackwardSm90<128>(backward, stream);
  }
  forDim(shape.headDim, [&](auto dim) {
    constexpr int bytes = 6 * tileBytes<dim, rowsPerTile> + 2 * sizeof(RowFacts);
    Shape perToken = shape;
    perToken.size = 1;
    launchWithShared<backwardKeys<dim>, bytes>(dim3(mostTiles(q->rows, perToken, keysPerTile), kvHeads), threads,
                                               stream, backward);
    launchWithShared<backwardRows<dim>, bytes>(dim3(mostTiles(q->rows, shape, rowsPerTile), kvHeads), threads, stream,
                                               backward);
  });
}

}  // namespace loram
