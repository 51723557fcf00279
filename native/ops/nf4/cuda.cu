// NF4 on the GPU, with the same bytes as on the CPU: compiled without fast-math, and contracted to no FMA where it
// counts.
#include "../../cuda/bf16Matrix.cuh"
#include "../../cuda/vector.cuh"
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
  awaitPrevious();
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
  awaitPrevious();
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
  awaitPrevious();
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

// What a warp dequantises at a time: a block for each lane.
constexpr int codesOfWarp = 32 * nf4Block, wordsOfLane = codesOfWarp / 32 / 8;

// w from the block `first` on, as one run of codes whatever its rows.
// Floor     n / 2 + 4 n / 64 bytes read, 2 n written as bf16: 0.60 GB at 28672 x 8192, 0.20 ms at 3.0 TB/s
// Measured  0.209 ms there, 37 us at 8192 x 4300, H100, 2026-11-24; 0.151 ms and 27 us, H200, 2026-11-29
// Lanes     each loads eight words of the warp's codes and the scale of one of its blocks, all at once, and holds one
//           value of the code book; shuffles hand them around, so that there is no shared memory to wait for or to take
// width     codes that a lane writes at a time, a divisor of `columns`: the warp's are neighbours, and none crosses
//           the end of a row
template <int width, class T>
__global__ void __launch_bounds__(256, width == 8 ? 4 : 3)
    dequantize(Nf4Weights weights, int64_t first, int64_t count, T* w, int64_t pitch, int columns) {
  awaitPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t start = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32 * codesOfWarp;
  if (start >= count) return;
  const int left = static_cast<int>(min(count - start, int64_t{codesOfWarp}));
  const int64_t block = first + start / nf4Block;
  uint32_t words[wordsOfLane];
#pragma unroll
  for (int i = 0; i < wordsOfLane; i++) {
    const int word = 32 * i + lane;
    words[i] = 8 * word < left ? __ldcs(weights.packed + block * (nf4Block / 8) + word) : 0;
  }
  const float scale = lane * nf4Block < left ? weights.scale(block + lane) : 0;
  const float level = nf4Values.values[lane % 16];

  const int64_t row = (start + lane * width) / columns;
  auto column = static_cast<int>(start + lane * width - row * columns);
  T* target = w + row * pitch + column;
#pragma unroll
  for (int step = 0; step < codesOfWarp / (32 * width); step++) {
    const int place = 32 * width * step, offset = lane * width;
    uint32_t word = words[place / 256];
    if constexpr (width < 8) word = __shfl_sync(~0u, word, (place % 256 + offset) / 8);
    const float blockScale = __shfl_sync(~0u, scale, (place + offset) / nf4Block);
    Vector<T, width> values;
#pragma unroll
    for (int i = 0; i < width; i++) {
      // The first of a pair lies in the high nibble; of the lane's number a shuffle by 16 takes the low 4 bits.
      const int nibble = (offset % 8 + i) ^ 1;
      values[i] = T(__shfl_sync(~0u, level, word >> 4 * nibble, 16) * blockScale);
    }
    if (place + offset < left) *reinterpret_cast<Vector<T, width>*>(target) = values;
    target += 32 * width, column += 32 * width;
    while (column >= columns) column -= columns, target += pitch - columns;
  }
}

template <bool aligned, class T>
__global__ void __launch_bounds__(256) embed(Nf4Weights weights, const int32_t* ids, T* y, int64_t pitch, int columns) {
  fillNf4Table();
  __syncthreads();
  awaitPrevious();
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (column >= columns) return;
  const Nf4Chunk chunk = weights.fetch<aligned>(int64_t{ids[blockIdx.x]} * columns + column);
  Vector<T, 8> values;
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] = T(nf4Value<aligned>(chunk, i));
  store(y + blockIdx.x * pitch + column, columns - column, values);
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
  const auto columns = static_cast<int>(op.y.columns());
  const dim3 grid(static_cast<unsigned>(op.y.rows()), ceilDiv(columns, 8 * 256));
  // Twice the bytes: where the number of weights is odd that is one more, which begins no block.
  const Nf4Weights weights =
      nf4Weights(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset, 2 * op.packed.elements());
  forFloat(op.y.dtype, [&](auto t) {
    using T = decltype(t);
    launch(columns % 8 == 0 ? embed<true, T> : embed<false, T>, grid, 256, stream, weights, op.ids.as<int32_t>(),
           op.y.as<T>(), op.y.pitch, columns);
  });
}

void dequantizeNf4(const Nf4Weights& weights, int64_t firstRow, const Tensor& w, cudaStream_t stream) {
  const auto columns = static_cast<int>(w.columns());
  const auto blocks = static_cast<unsigned>(ceilDiv(w.elements(), int64_t{8 * codesOfWarp}));
  forFloat(w.dtype, [&](auto t) {
    using T = decltype(t);
    const auto kernel = columns % 8 == 0   ? dequantize<8, T>
                        : columns % 4 == 0 ? dequantize<4, T>
                        : columns % 2 == 0 ? dequantize<2, T>
                                           : dequantize<1, T>;
    launch(kernel, blocks, 256, stream, weights, firstRow * columns / nf4Block, w.elements(), w.as<T>(),
           w.rank > 1 ? w.pitch : columns, columns);
  });
}

}  // namespace loram
