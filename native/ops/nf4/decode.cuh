// NF4 weights on their way to bf16: eight neighbours at a time, from any place in the flattened matrix. Each value is
// codeBook[code] * absmax in f32, rounded once, so products of many rows see the weights of the dequantised matrix.
#pragma once
#include <cstdint>

#include "../../core/nf4.h"
#include "../../core/tensor.h"
#include "../../cuda/mma.cuh"

namespace loram {

static __device__ const Table<16> nf4Values = nf4CodeBook;
static __device__ const Table<256> nf4DynamicMap = makeDynamicMap();

// A copy of the code book for each lane, so that a warp looks up 32 codes without a bank conflict: 2 KB.
static __device__ float* nf4Table() {
  __shared__ float table[16 * 32];
  return table;
}

__device__ inline void fillNf4Table() {
  for (int i = threadIdx.x; i < 16 * 32; i += blockDim.x) nf4Table()[i] = nf4Values.values[i / 32];
}

// Elements from `border` on belong to the next block, with the second scale.
struct Nf4Chunk {
  uint32_t codes;
  float scale, nextScale;
  int border;
};

struct Nf4Weights {
  const uint32_t* packed;  // padded to whole words
  const void* absmax;      // f32, or u8 when there are nestedAbsmax and nestedOffset
  const float *nestedAbsmax, *nestedOffset;
  int64_t elements;

  // `aligned` promises first % 8 == 0.
  template <bool aligned>
  __device__ Nf4Chunk fetch(int64_t first) const {
    const int64_t block = first / nf4Block, word = first / 8;
    Nf4Chunk chunk{__ldg(packed + word), scale(block), 0, 8};
    if constexpr (!aligned) {
      // With its bytes reversed a word holds its codes from the top down, and two words can be shifted as one.
      const uint32_t next = (word + 1) * 8 < elements ? __ldg(packed + word + 1) : 0;
      chunk.codes = reverse(__funnelshift_l(reverse(next), reverse(chunk.codes), first % 8 * 4));
      chunk.border = static_cast<int>((block + 1) * nf4Block - first);
      if (chunk.border < 8 && (block + 1) * nf4Block < elements) chunk.nextScale = scale(block + 1);
    }
    return chunk;
  }

  // The four chunks from `first`, a multiple of 32.
  __device__ void fetchRun(Nf4Chunk (&run)[4], int64_t first) const {
    const uint4 codes = __ldg(reinterpret_cast<const uint4*>(packed + first / 8));
    const float s = scale(first / nf4Block);
    run[0] = {codes.x, s, s, 8}, run[1] = {codes.y, s, s, 8}, run[2] = {codes.z, s, s, 8}, run[3] = {codes.w, s, s, 8};
  }

  __device__ float scale(int64_t block) const {
    if (!nestedAbsmax) return __ldg(static_cast<const float*>(absmax) + block);
    const float code = __ldg(nf4DynamicMap.values + __ldg(static_cast<const uint8_t*>(absmax) + block));
    return __fadd_rn(__fmul_rn(code, __ldg(nestedAbsmax + block / nf4NestedBlock)), __ldg(nestedOffset));
  }

 private:
  static __device__ uint32_t reverse(uint32_t word) { return __byte_perm(word, 0, 0x0123); }
};

// w, rows of weights in f32 or bf16, from `firstRow` of the quantised matrix on, where a block begins.
void dequantizeNf4(const Nf4Weights& weights, int64_t firstRow, const Tensor& w, cudaStream_t stream);

inline Nf4Weights nf4Weights(const Tensor& packed, const Tensor& absmax, const Tensor& nestedAbsmax,
                             const Tensor& nestedOffset, int64_t elements) {
  return {packed.as<uint32_t>(), absmax.data, nestedAbsmax.as<float>(), nestedOffset.as<float>(), elements};
}

// Element j of a chunk; the first of a pair lies in the high nibble of its byte.
template <bool aligned>
__device__ float nf4Value(const Nf4Chunk& chunk, int j) {
  const int nibble = j ^ 1;
  const uint32_t offset = nibble == 0   ? chunk.codes << 7
                          : nibble == 1 ? chunk.codes << 3
                                        : chunk.codes >> (4 * nibble - 7);
  const char* lane = reinterpret_cast<const char*>(nf4Table() + threadIdx.x % 32);
  const float value = *reinterpret_cast<const float*>(lane + (offset & 0x780));
  return value * (aligned || j < chunk.border ? chunk.scale : chunk.nextScale);
}

template <bool aligned>
__device__ uint4 nf4Decode(const Nf4Chunk& chunk) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = packBf16(nf4Value<aligned>(chunk, 2 * i), nf4Value<aligned>(chunk, 2 * i + 1));
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

}  // namespace loram
