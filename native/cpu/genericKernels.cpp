#include <utility>

#include "kernels.h"
#include "nf4.h"

namespace loram {
namespace {

// Four lanes in the compiler's own vector type: any processor. A product is rounded before it is added.
struct Simd {
  typedef float Vec __attribute__((vector_size(16)));
  typedef uint64_t Wide __attribute__((vector_size(16)));
  static constexpr int lanes = 4, tileRows = 5;

  static Vec broadcast(float x) { return Vec{x, x, x, x}; }
  static Vec load(const float* p) { return load(p, lanes); }
  static Vec load(const float* p, int n) {
    Vec x = {};
    __builtin_memcpy(&x, p, n * sizeof(float));
    return x;
  }
  static void store(float* p, Vec x) { store(p, x, lanes); }
  static void store(float* p, Vec x, int n) { __builtin_memcpy(p, &x, n * sizeof(float)); }
  static Vec multiply(Vec a, Vec b) { return a * b; }
  static Vec multiplyAdd(Vec a, Vec b, Vec c) { return a * b + c; }
  static float sum(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static Vec loadBf16(const Bf16* p) { return Vec{p[0], p[1], p[2], p[3]}; }
  static Vec loadNf4(const uint8_t* p) {
    return Vec{nf4CodeBook[p[0] >> 4], nf4CodeBook[p[0] & 15], nf4CodeBook[p[1] >> 4], nf4CodeBook[p[1] & 15]};
  }
  static Wide multiplyLow(Wide a, uint32_t b) { return (a & 0xffffffff) * uint64_t{b}; }
  static void transpose(Vec (&x)[4]) {
    const Vec t[4] = {x[0], x[1], x[2], x[3]};
    for (int j = 0; j < 4; j++) x[j] = Vec{t[0][j], t[1][j], t[2][j], t[3][j]};
  }
};

#include "simdKernels.inl"

}  // namespace

const Kernels genericKernels = table;

}  // namespace loram
