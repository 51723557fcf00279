// NF4 on the GPU, with the same bytes as on the CPU: compiled without fast-math, and contracted to no FMA where it
// counts.
#include "../../cuda/bf16Matrix.cuh"
#include "../../cuda/dtype.cuh"
#include "../ops.h"
#include "decode.cuh"

namespace loram {
namespace {

// Elements of one flattened [rows, columns] matrix whose rows lie `pitch` apart.
template <class T>
struct Flattened {
  const T* data;
  int64_t columns, pitch, elements;

  __device__ float at(int64_t i) const {
    if (i >= elements) return 0;
    return static_cast<float>(pitch == columns ? data[i] : data[i / columns * pitch + i % columns]);
  }
};

// The code goes up where the scaled value is strictly greater than halfway between neighbours.
__device__ uint32_t nf4Code(float scaled) {
  uint32_t code = 0;
#pragma unroll
  for (int i = 0; i < 15; i++) code += scaled > (nf4Values.values[i] + nf4Values.values[i + 1]) / 2;
  return code;
}

// Floor     2 n bytes of bf16 read, n / 2 written
// Threads   8 for a block of 64 values, 8 neighbours each: a warp reads 512 bytes and writes 128
template <class T>
__global__ void quantize(Flattened<T> w, uint8_t* packed, float* absmax) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  float values[8], largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    values[i] = w.at(first + i);
    largest = fabsf(values[i]) > largest ? fabsf(values[i]) : largest;
  }
  for (int distance = 4; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(0xffffffff, largest, distance);
    largest = other > largest ? other : largest;
  }
  if (first >= w.elements) return;
  if (first % nf4Block == 0) absmax[first / nf4Block] = largest;
  // As bitsandbytes: a reciprocal and a product, not a division; the bound keeps it finite and gives zeros the code 7.
  const float scale = 1.0f / fmaxf(largest, 1e-38f);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t pair = nf4Code(values[2 * i] * scale) << 4 | nf4Code(values[2 * i + 1] * scale);
    if (first + 2 * i < w.elements) packed[first / 2 + i] = static_cast<uint8_t>(pair);
  }
}

// The mean of absmax, summed in double in an order that depends on n alone: one block of 1024 threads.
__global__ void meanOf(const float* values, int64_t n, float* mean) {
  __shared__ double sums[1024];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += 1024) sum += values[i];
  sums[threadIdx.x] = sum;
  for (int half = 512; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *mean = static_cast<float>(sums[0] / static_cast<double>(n));
}

// Nearest entry of the dynamic map; a tie goes to the lower one.
__device__ uint8_t nearest(float x) {
  const float* map = nf4DynamicMap.values;
  int lower = 0, upper = 255;  // map[lower] <= x < map[upper], but for values beyond the ends
  while (upper - lower > 1) {
    const int middle = (lower + upper) / 2;
    (x < map[middle] ? upper : lower) = middle;
  }
  return static_cast<uint8_t>(x > (map[lower] + map[upper]) / 2 ? upper : lower);
}

// One block of threads for one block of 256 absmax values.
__global__ void quantizeAbsmax(const float* absmax, int64_t n, const float* offset, uint8_t* codes,
                               float* nestedAbsmax) {
  __shared__ float largest[nf4NestedBlock];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * nf4NestedBlock + threadIdx.x;
  const float centred = i < n ? absmax[i] - *offset : 0;
  largest[threadIdx.x] = fabsf(centred);
  for (int half = nf4NestedBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) largest[threadIdx.x] = fmaxf(largest[threadIdx.x], largest[threadIdx.x + half]);
  }
  __syncthreads();
  if (threadIdx.x == 0) nestedAbsmax[blockIdx.x] = largest[0];
  if (i < n) codes[i] = nearest(centred * (largest[0] > 0 ? 1 / largest[0] : 0));
}

__device__ void storeChunk(__nv_bfloat16* target, int count, const float (&v)[8]) {
  if (count >= 8) {
    *reinterpret_cast<uint4*>(target) = {packBf16(v[0], v[1]), packBf16(v[2], v[3]), packBf16(v[4], v[5]),
                                         packBf16(v[6], v[7])};
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i < count) target[i] = __float2bfloat16(v[i]);
    }
  }
}
__device__ void storeChunk(float* target, int count, const float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i < count) target[i] = v[i];
  }
}

// Which row of the weight a row of the result is: the rows from one on, or those that ids name.
struct RowsFrom {
  int64_t first;
  __device__ int64_t operator()(int row) const { return first + row; }
};
struct RowsNamed {
  const int32_t* ids;
  __device__ int64_t operator()(int row) const { return ids[row]; }
};

// Floor     n / 2 + 4 n / 64 bytes read, 2 n written as bf16: 0.60 GB at 28672 x 8192, 0.20 ms at 3.0 TB/s
// Measured  0.223 ms there, H100, 2026-11-24
// Threads   8 neighbours each, so that a warp writes 512 bytes in one piece; 4 chunks in flight in each thread
template <bool aligned, class T, class RowOf>
__global__ void __launch_bounds__(256, 4)
    dequantize(Nf4Weights weights, RowOf rowOf, T* w, int64_t pitch, int rows, int columns) {
  constexpr int chunks = 4;
  fillNf4Table();
  __syncthreads();
  const int first = (blockIdx.x * blockDim.x * chunks + threadIdx.x) * 8, step = blockDim.x * 8;
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t start = rowOf(row) * columns;
    Nf4Chunk chunk[chunks];
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      const int column = first + i * step;
      if (column < columns) chunk[i] = weights.fetch<aligned>(start + column);
    }
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      const int column = first + i * step;
      if (column >= columns) break;
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; j++) values[j] = nf4Value<aligned>(chunk[i], j);
      storeChunk(w + row * pitch + column, columns - column, values);
    }
  }
}

template <class RowOf>
void queueDequantize(const Nf4Weights& weights, RowOf rowOf, const Tensor& w, cudaStream_t stream) {
  const int rows = static_cast<int>(w.rows()), columns = static_cast<int>(w.columns());
  const dim3 grid(ceilDiv(columns, 4 * 8 * 256), std::min(rows, 4096));
  forFloat(w.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t pitch = w.rank > 1 ? w.pitch : columns;
    launch(columns % 8 == 0 ? dequantize<true, T, RowOf> : dequantize<false, T, RowOf>, grid, 256, stream, weights,
           rowOf, w.as<T>(), pitch, rows, columns);
  });
}

}  // namespace

void cuda(const Nf4Quantize& op, cudaStream_t stream) {
  const int64_t threads = ceilDiv(op.w.elements(), int64_t{nf4Block}) * 8;
  forDtype(op.w.dtype, [&](auto t) {
    using T = decltype(t);
    const Flattened<T> w{op.w.as<T>(), op.w.columns(), op.w.rank > 1 ? op.w.pitch : op.w.columns(), op.w.elements()};
    launch(quantize<T>, static_cast<unsigned>(ceilDiv(threads, int64_t{256})), 256, stream, w, op.packed.as<uint8_t>(),
           op.absmax.as<float>());
  });
}

void cuda(const Nf4QuantizeAbsmax& op, cudaStream_t stream) {
  const int64_t n = op.absmax.elements();
  float* offset = op.nestedOffset.as<float>();
  launch(meanOf, 1, 1024, stream, op.absmax.as<float>(), n, offset);
  launch(quantizeAbsmax, static_cast<unsigned>(ceilDiv(n, int64_t{nf4NestedBlock})), nf4NestedBlock, stream,
         op.absmax.as<float>(), n, offset, op.codes.as<uint8_t>(), op.nestedAbsmax.as<float>());
}

void cuda(const Nf4Dequantize& op, cudaStream_t stream) {
  const Tensor& w = op.w;
  dequantizeNf4(nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, w.elements()), 0, w, stream);
}

void cuda(const Nf4Embedding& op, cudaStream_t stream) {
  // Twice the bytes: where the number of weights is odd that is one more, which begins no block.
  queueDequantize(nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, 2 * op.packed.elements()),
                  RowsNamed{op.ids.as<int32_t>()}, op.y, stream);
}

void dequantizeNf4(const Nf4Weights& weights, int64_t firstRow, const Tensor& w, cudaStream_t stream) {
  queueDequantize(weights, RowsFrom{firstRow}, w, stream);
}

}  // namespace loram
