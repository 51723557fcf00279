#ifdef __x86_64__
// GCC 12 warns about the undefined values inside its own header (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "kernels.h"
#include "nf4.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")

namespace loram {
namespace {

struct Simd {
  using Vec = __m512;
  typedef uint64_t Wide __attribute__((vector_size(64)));
  static constexpr int lanes = 16, tileRows = 14;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec broadcast(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static void store(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec multiplyAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(Vec x) { return _mm512_reduce_add_ps(x); }

  static Vec loadBf16(const Bf16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }

  // Every lane gets the four bytes that hold its code and shifts them; the table look-up reads only the low four bits.
  static Vec loadNf4(const uint8_t* p) {
    const __m512i half = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i shift = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m512i codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(bytes)), shift);
    return _mm512_permutexvar_ps(codes, load(nf4CodeBook.values));
  }

  static Wide multiplyLow(Wide a, uint32_t b) {
    return reinterpret_cast<Wide>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
  }

  static void transpose(Vec (&x)[16]) {
    Vec t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    // Now x[4 i + j] holds, in its four quarters, columns j, j + 4, j + 8, j + 12 of the rows 4 i .. 4 i + 3.
    for (int i = 0; i < 16; i += 4) {
      for (int j = 0; j < 2; j++) {
        const __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
        x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
        x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
      }
    }
    for (int j = 0; j < 4; j++) {
      const Vec even01 = _mm512_shuffle_f32x4(x[j], x[j + 4], 0x88), odd01 = _mm512_shuffle_f32x4(x[j], x[j + 4], 0xdd);
      const Vec even23 = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0x88);
      const Vec odd23 = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0xdd);
      t[j] = _mm512_shuffle_f32x4(even01, even23, 0x88);
      t[j + 8] = _mm512_shuffle_f32x4(even01, even23, 0xdd);
      t[j + 4] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
      t[j + 12] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
    }
    for (int i = 0; i < 16; i++) x[i] = t[i];
  }
};

#include "simdKernels.inl"

}  // namespace

const Kernels avx512Kernels = table;

}  // namespace loram
#endif
