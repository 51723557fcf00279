// The choice of kernel by shape and GPU.
#include <limits>

#include "../ops.h"
#include "gemm.h"
#include "gemvNf4.cuh"
#include "sm80.cuh"
#include "sm90.cuh"

namespace loram {
namespace {

// For kernels that do not take the low-rank part along.
template <Order order>
void addLowRank(const LowRank& extra, Output c, cudaStream_t stream) {
  if (extra.rank == 0) return;
  c.beta = 1;
  gemmSm80<Order::byDepth, order>(extra.left, extra.right, c, extra.rank, stream);
}

template <Order orderA, Order orderB>
void multiplyAs(const Bf16Matrix& a, const Bf16Matrix& b, const LowRank& extra, Output c, int depth,
                cudaStream_t stream) {
  // A gradient of few rows out of a long depth, such as LoRA's: only parts of the depth keep the memory busy.
  const bool isFlat = orderA == Order::byPosition && c.rows <= SmallTile::M;
  const int parts = isFlat ? 0 : partsSm90(c, depth);
  if (parts > 1) return splitSm90<orderA, orderB>(a, b, extra, c, depth, parts, stream);
  if (parts == 1) {
    return c.dtype == DType::bf16 ? gemmSm90<orderA, orderB, __nv_bfloat16>(a, b, extra, c, depth, stream)
                                  : gemmSm90<orderA, orderB, float>(a, b, extra, c, depth, stream);
  }
  gemmSm80<orderA, orderB>(a, b, c, depth, stream);
  addLowRank<orderB>(extra, c, stream);
}

// Weights of more bytes than this are dequantised and multiplied in slices: nf4ScratchBytes in src/native/nf4.ts.
constexpr int64_t sliceBytes = 128 << 20;

// How many of `rows` rows of w a slice of x * w^T has, at most `most`: those that take the fewest waves of tiles in all.
int rowsOfSlices(int rows, int most, int rowsOfY) {
  constexpr int tile = 256;
  const auto waves = [&](int columns) {
    return ceilDiv(ceilDiv(rowsOfY, 128) * ceilDiv(columns, tile), multiprocessors());
  };
  int best = most, fewest = std::numeric_limits<int>::max();
  for (int slice = most; slice > most / 2; slice -= tile) {
    const int all = rows / slice * waves(slice) + waves(rows % slice);
    if (all < fewest) fewest = all, best = slice;
  }
  return best;
}

// y = x * w^T, or x * w, with w dequantised into scratch memory: its 2.5 bytes a weight cost less time than decoding it
// anew for every tile of y. Slices of x * w are added up in y.
template <bool aligned>
void multiplyDequantized(const Bf16Matrix& x, Order order, const Nf4Matrix<aligned>& w, LowRank extra, Output y,
                         cudaStream_t stream) {
  const int64_t pitch = paddedPitch(w.columns), inSlice = std::max<int64_t>(1, sliceBytes / (2 * pitch) / 256) * 256;
  const int most = static_cast<int>(std::min<int64_t>(w.rows, inSlice));
  const int rowsOfSlice = most == w.rows || order == Order::byPosition ? most : rowsOfSlices(w.rows, most, y.rows);
  Scratch<__nv_bfloat16> memory(most * pitch, stream);
  for (int row = 0; row < w.rows; row += rowsOfSlice) {
    const int rows = std::min(rowsOfSlice, w.rows - row);
    const Bf16Matrix slice{memory.data(), pitch, rows, w.columns};
    dequantizeNf4(w.weights, row, {memory.data(), DType::bf16, 2, {rows, w.columns}, pitch}, stream);
    if (order == Order::byPosition) {
      multiply(Order::byDepth, {x.data + row, x.pitch, x.rows, rows}, order, slice, extra, y, rows, stream);
      y.beta = 1, extra.rank = 0;
    } else {
      Output part = y;
      part.data = static_cast<uint8_t*>(y.data) + row * bytesPerElement(y.dtype), part.columns = rows;
      LowRank partOfExtra = extra;
      partOfExtra.right.data += row * extra.right.pitch, partOfExtra.right.rows = rows;
      multiply(Order::byDepth, x, order, slice, partOfExtra, part, w.columns, stream);
    }
  }
}

template <bool aligned>
void multiplyNf4(const Bf16Matrix& x, Order order, const Nf4Matrix<aligned>& w, const LowRank& extra, Output y,
                 cudaStream_t stream) {
  const int depth = order == Order::byPosition ? w.rows : w.columns;
  if (y.rows > 64 && partsSm90(y, depth) > 0) return multiplyDequantized(x, order, w, extra, y, stream);
  if (order == Order::byPosition) {
    gemmSm80<Order::byDepth, Order::byPosition>(x, w, y, depth, stream);
    addLowRank<Order::byPosition>(extra, y, stream);
  } else {
    if (y.rows > gemvMaxTokens) {
      gemmSm80<Order::byDepth, Order::byDepth>(x, w, y, depth, stream);
    } else {
      w.columns % nf4Block == 0 ? queueGemvNf4(w.weights, x, y, stream) : queueGemv(w, x, y, stream);
    }
    addLowRank<Order::byDepth>(extra, y, stream);
  }
}

LowRank lowRank(const Bf16Operand& left, const Bf16Operand& right) { return {*left, *right, left->columns}; }

}  // namespace

void multiply(Order orderA, const Bf16Matrix& a, Order orderB, const Bf16Matrix& b, const LowRank& extra,
              const Output& c, int depth, cudaStream_t stream) {
  constexpr Order byDepth = Order::byDepth, byPosition = Order::byPosition;
  if (orderA == byDepth && orderB == byDepth && c.rows <= gemvMaxTokens) {
    queueGemv(Bf16Rows(b), a, c, stream);
    return addLowRank<byDepth>(extra, c, stream);
  }
  if (orderA == byDepth) {
    return orderB == byDepth ? multiplyAs<byDepth, byDepth>(a, b, extra, c, depth, stream)
                             : multiplyAs<byDepth, byPosition>(a, b, extra, c, depth, stream);
  }
  orderB == byDepth ? multiplyAs<byPosition, byDepth>(a, b, extra, c, depth, stream)
                    : multiplyAs<byPosition, byPosition>(a, b, extra, c, depth, stream);
}

void cuda(const Gemm& op, cudaStream_t stream) {
  const Bf16Operand a(op.a, stream), b(op.b, stream), left(op.left, stream), right(op.right, stream);
  const Order orderA = op.transposeA ? Order::byPosition : Order::byDepth;
  const Order orderB = op.transposeB ? Order::byDepth : Order::byPosition;
  multiply(orderA, *a, orderB, *b, lowRank(left, right), outputTo(op.c, op.alpha, op.beta),
           op.transposeA ? a->rows : a->columns, stream);
}

void cuda(const Nf4Gemm& op, cudaStream_t stream) {
  const Bf16Operand x(op.x, stream), left(op.left, stream), right(op.right, stream);
  const Output y = outputTo(op.y, 1, op.beta);
  const Order order = op.transposed ? Order::byPosition : Order::byDepth;
  const int rows = op.transposed ? x->columns : y.columns, columns = op.transposed ? y.columns : x->columns;
  const Nf4Weights weights =
      nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, int64_t{rows} * columns);
  const LowRank extra = lowRank(left, right);
  columns % 8 == 0 ? multiplyNf4(*x, order, Nf4Matrix<true>{weights, rows, columns}, extra, y, stream)
                   : multiplyNf4(*x, order, Nf4Matrix<false>{weights, rows, columns}, extra, y, stream);
}

}  // namespace loram
