// What loops need to be turned into vector instructions by the compiler, without a -march that old machines lack.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

// Compiles a function for AVX-512, AVX2 and the baseline; the loader picks one. The compiler neither fuses nor reorders
// floating-point operations here, so all give the same bits. Sanitizers do not get on with the loader's choice.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LORAM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LORAM_CLONES
#endif

namespace loram::simd {

// e^x with a relative error of at most 2^-23 (Cephes' expf: x = n log 2 + r, a polynomial in r, times 2^n), for loops
// that the compiler vectorises: it has no vector form of std::exp. Infinities and NaN go where std::exp sends them.
[[gnu::always_inline]] inline float exp(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -105.0f ? -105.0f : x;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n alone may be outside the range of float's exponent.
  const int32_t power = std::bit_cast<int32_t>(shifted) - 0x4b400000, half = power >> 1;
  const float low = std::bit_cast<float>((half + 127) << 23), high = std::bit_cast<float>((power - half + 127) << 23);
  return p * low * high;
}

// Sum over j < n of term(j) in double. Eight lanes fix the order of additions whatever the width of vectors.
template <class Term>
[[gnu::always_inline]] inline double sum(int64_t n, Term term) {
  constexpr int width = 8;
  double lanes[width] = {};
  int64_t j = 0;
  for (; j + width <= n; j += width) {
    for (int lane = 0; lane < width; lane++) lanes[lane] += term(j + lane);
  }
  for (; j < n; j++) lanes[0] += term(j);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// max over j < n of x[j]; n > 0. NaN may be passed over: the exponentials of the same values bring it back.
[[gnu::always_inline]] inline float max(const float* x, int64_t n) {
  constexpr int width = 16;
  float lanes[width];
  std::fill_n(lanes, width, x[0]);
  int64_t j = 0;
  for (; j + width <= n; j += width) {
    for (int lane = 0; lane < width; lane++) lanes[lane] = x[j + lane] > lanes[lane] ? x[j + lane] : lanes[lane];
  }
  for (; j < n; j++) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
  return *std::max_element(lanes, lanes + width);
}

}  // namespace loram::simd
