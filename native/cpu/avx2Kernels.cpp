#ifdef __x86_64__
#include <immintrin.h>

#include <utility>

#include "kernels.h"
#include "nf4.h"

#pragma GCC target("avx2,fma")

namespace loram {
namespace {

struct Simd {
  using Vec = __m256;
  typedef uint64_t Wide __attribute__((vector_size(32)));
  static constexpr int lanes = 8, tileRows = 6;

  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
  }
  static Vec broadcast(float x) { return _mm256_set1_ps(x); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const float* p, int n) { return n == lanes ? load(p) : _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
  static void store(float* p, Vec x, int n) { n == lanes ? store(p, x) : _mm256_maskstore_ps(p, first(n), x); }
  static Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec multiplyAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

  static float sum(Vec x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  static Vec loadBf16(const Bf16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }

  // A look-up reads the low three bits of a lane; bit 3, moved to the sign, chooses between the halves of the table.
  static Vec loadNf4(const uint8_t* p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, 4);
    const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4));
    const Vec low = _mm256_permutevar8x32_ps(load(nf4CodeBook.values), codes);
    const Vec high = _mm256_permutevar8x32_ps(load(nf4CodeBook.values + 8), codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  }

  static Wide multiplyLow(Wide a, uint32_t b) {
    return reinterpret_cast<Wide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
  }

  static void transpose(Vec (&x)[8]) {
    Vec t[8];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    // Now x[4 i + j] holds, in its two halves, columns j and j + 4 of the rows 4 i .. 4 i + 3.
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; j++) {
        x[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
        x[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
      }
    }
    for (int j = 0; j < 4; j++) {
      t[j] = _mm256_permute2f128_ps(x[j], x[j + 4], 0x20);
      t[j + 4] = _mm256_permute2f128_ps(x[j], x[j + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) x[i] = t[i];
  }
};

#include "simdKernels.inl"

}  // namespace

const Kernels avx2Kernels = table;

}  // namespace loram
#endif
