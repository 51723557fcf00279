// Sums and maxima in a fixed order: the same inputs give the same bits every time.
#pragma once
#include <cstdint>

#include "launch.cuh"
#include "scratch.cuh"

namespace loram {

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// The value of all threads of a warp combined, in every thread.
template <class T, class Combine>
__device__ T warpReduce(T value, Combine combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(~0u, value, distance));
  return value;
}

// The value of all threads of a block of whole warps combined, in every thread. `neutral` changes nothing.
template <class T, class Combine>
__device__ T blockReduce(T value, T neutral, Combine combine) {
  __shared__ T ofWarp[32];
  const int thread = threadIdx.x, warps = blockDim.x / 32;
  value = warpReduce(value, combine);
  if (thread % 32 == 0) ofWarp[thread / 32] = value;
  __syncthreads();
  value = warpReduce(thread % 32 < warps ? ofWarp[thread % 32] : neutral, combine);
  __syncthreads();  // before the next call writes there
  return value;
}

template <class T>
__device__ T blockSum(T value) {
  return blockReduce(value, T{}, Sum{});
}

// Rows whose terms one thread adds up before the partial sums are added, and columns that a block takes.
constexpr int64_t columnSlice = 256;
constexpr int columnsOfBlock = 128;

template <class Term>
__global__ void __launch_bounds__(columnsOfBlock)
    columnPartials(int64_t rows, int64_t columns, unsigned blocksAcross, double* partials, Term term) {
  awaitPrevious();
  const int64_t slice = blockIdx.x / blocksAcross;
  const int64_t column = static_cast<int64_t>(blockIdx.x % blocksAcross) * columnsOfBlock + threadIdx.x;
  if (column >= columns) return;
  const int64_t begin = slice * columnSlice;
  const int64_t end = begin + columnSlice < rows ? begin + columnSlice : rows;
  double sum = 0;
  for (int64_t row = begin; row < end; row++) sum += term(row, column);
  partials[slice * columns + column] = sum;
}

static __global__ void __launch_bounds__(columnsOfBlock)
    addPartials(int64_t slices, int64_t columns, const double* partials, float* sums) {
  awaitPrevious();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * columnsOfBlock + threadIdx.x;
  if (column >= columns) return;
  double sum = 0;
  for (int64_t slice = 0; slice < slices; slice++) sum += partials[slice * columns + column];
  sums[column] += static_cast<float>(sum);
}

// sums[j] += sum over i of term(i, j), added up in double.
template <class Term>
void addColumnSums(int64_t rows, int64_t columns, float* sums, cudaStream_t stream, Term term) {
  const int64_t slices = ceilDiv(rows, columnSlice);
  const Scratch<double> partials(slices * columns, stream);
  // Slices are too many for the y of a grid
  const unsigned across = ceilDiv<int64_t>(columns, columnsOfBlock), blocks = across * slices;
  launch(columnPartials<Term>, blocks, columnsOfBlock, stream, rows, columns, across, partials.data(), term);
  launch(addPartials, across, columnsOfBlock, stream, slices, columns, const_cast<const double*>(partials.data()),
         sums);
}

}  // namespace loram
