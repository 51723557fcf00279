#pragma once
#include <cstdint>

#include "../core/dtype.h"

namespace loram {

// Whole blocks of NF4, with the absmax of each.
struct Nf4Blocks {
  const uint8_t* packed;
  const float* scales;
};

// What the CPU ops need of an instruction set. The three tables hold the same functions, compiled from simdKernels.inl.
struct Kernels {
  // The tile of C that the registers hold. A panel of A is [k][rows of the tile], a panel of B [k][tileColumns].
  int tileRows, tileColumns;

  // c = alpha * a * b + beta * c for one tile: rows <= tileRows, columns <= tileColumns. Each sum runs over k in order.
  void (*tile)(int rows, int columns, int64_t k, const float* a, const float* b, float* c, int64_t ldc, float alpha,
               float beta);

  // panel[j * width + i] = source[i * stride + j] for i < count <= width, j < k.
  void (*transpose)(const float* source, int64_t stride, int count, int64_t k, float* panel, int width);

  // panel[j * width + i] = source[j * stride + i] for i < count <= width, j < k.
  void (*copy)(const float* source, int64_t stride, int count, int64_t k, float* panel, int width);

  // sums[i * 4 + j] = x[i * stride ...] . w[j] over k, for i < m <= 4 and four rows w. Lane l sums what is l modulo the
  // number of lanes, whatever m is, so a row's result does not depend on the rows beside it.
  void (*dotF32)(const float* const* w, const float* x, int64_t stride, int m, int64_t k, float* sums);
  void (*dotBf16)(const Bf16* const* w, const float* x, int64_t stride, int m, int64_t k, float* sums);
  void (*dotNf4)(const Nf4Blocks* w, const float* x, int64_t stride, int m, int64_t k, float* sums);

  // mask[i] = keep where element i has word >> 8 >= threshold, else 0, for 64 elements: four for each of the 16 counters
  // philox(seed, stream, first ...).
  void (*dropoutMask)(uint64_t seed, uint64_t stream, uint64_t first, uint32_t threshold, float keep, float* mask);

  void (*widenBf16)(const Bf16* source, int64_t count, float* target);

  // target[i] = nf4CodeBook[code i] * scale; the first code is in the high nibble of packed[0].
  void (*decodeNf4)(const uint8_t* packed, int64_t count, float scale, float* target);
};

extern const Kernels genericKernels;
#ifdef __x86_64__
extern const Kernels avx2Kernels, avx512Kernels;
#endif

// The best table that this processor runs, or the one that LORAM_CPU (generic, avx2, avx512) names.
// Throws std::invalid_argument when LORAM_CPU names one that this processor does not run.
const Kernels& kernels();

}  // namespace loram
