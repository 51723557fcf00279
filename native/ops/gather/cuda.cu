// Copies of rows and columns: no arithmetic, so elements are unsigned integers of their width.
#include "../../cuda/vector.cuh"
#include "../ops.h"

namespace loram {
namespace {

// y[to(i)] = x[from(i)] over rows
template <class T, class Op>
void moveRows(const Op& op, bool gather, cudaStream_t stream) {
  constexpr int width = vectorWidth<T>;
  const Matrix<T> x(op.x), y(op.y);
  const int32_t* indices = op.indices.template as<int32_t>();
  elementwise<width>(op.indices.elements(), x.columns, stream, [=] __device__(int64_t i, int64_t column, int64_t left) {
    const int64_t from = gather ? indices[i] : i, to = gather ? i : indices[i];
    store(y.at(to, column), left, load<width>(x.at(from, column), left));
  });
}

template <class T, class Op>
void moveColumns(const Op& op, bool gather, cudaStream_t stream) {
  const Matrix<T> x(op.x), y(op.y);
  const int32_t* indices = op.indices.template as<int32_t>();
  elementwise<1>(x.rows, op.indices.elements(), stream, [=] __device__(int64_t row, int64_t i, int64_t) {
    const int64_t from = gather ? indices[i] : i, to = gather ? i : indices[i];
    *y.at(row, to) = *x.at(row, from);
  });
}

}  // namespace

void cuda(const GatherRows& op, cudaStream_t stream) {
  forWidth(op.x.dtype, [&](auto type) { moveRows<decltype(type)>(op, true, stream); });
}
void cuda(const ScatterRows& op, cudaStream_t stream) {
  forWidth(op.x.dtype, [&](auto type) { moveRows<decltype(type)>(op, false, stream); });
}
void cuda(const GatherColumns& op, cudaStream_t stream) {
  forWidth(op.x.dtype, [&](auto type) { moveColumns<decltype(type)>(op, true, stream); });
}
void cuda(const ScatterColumns& op, cudaStream_t stream) {
  forWidth(op.x.dtype, [&](auto type) { moveColumns<decltype(type)>(op, false, stream); });
}

}  // namespace loram
