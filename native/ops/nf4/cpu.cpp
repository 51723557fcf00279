#include <algorithm>
#include <array>
#include <cmath>

#include "../../core/parallel.h"
#include "../../cpu/nf4.h"
#include "../../cpu/reduce.h"
#include "../../cpu/simd.h"
#include "../ops.h"

namespace loram {
namespace {

// The code goes up where the scaled value is strictly greater: halfway between neighbours, in float32.
const std::array<float, 15> midpoints = [] {
  std::array<float, 15> m;
  for (int i = 0; i < 15; i++) m[i] = (nf4CodeBook[i] + nf4CodeBook[i + 1]) / 2;
  return m;
}();

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A short block is filled up with zeros, whose code 7 then pads the last byte.
LORAM_CLONES float quantizeBlock(const float* w, uint8_t* codes) {
  float absmax = 0;
  for (int i = 0; i < nf4Block; i++) absmax = std::fabs(w[i]) > absmax ? std::fabs(w[i]) : absmax;
  // As bitsandbytes: a reciprocal and a product, not a division; the bound keeps it finite and gives zeros the code 7.
  const float scale = 1.0f / std::max(absmax, 1e-38f);
  int32_t code[nf4Block] = {};
  for (int m = 0; m < 15; m++) {
    for (int i = 0; i < nf4Block; i++) code[i] += w[i] * scale > midpoints[m];
  }
  for (int i = 0; i < nf4Block / 2; i++) codes[i] = static_cast<uint8_t>(code[2 * i] << 4 | code[2 * i + 1]);
  return absmax;
}

template <class T>
void quantize(const Nf4Quantize& op) {
  const T* w = op.w.as<T>();
  const int64_t n = op.w.elements();
  parallelFor(
      ceilDiv(n, nf4Block),
      [&](int64_t block) {
        float values[nf4Block] = {};
        uint8_t codes[nf4Block / 2];
        const int64_t first = block * nf4Block, count = std::min<int64_t>(nf4Block, n - first);
        for (int64_t i = 0; i < count; i++) values[i] = w[first + i];
        op.absmax.as<float>()[block] = quantizeBlock(values, codes);
        std::copy_n(codes, ceilDiv(count, 2), op.packed.as<uint8_t>() + first / 2);
      },
      256);
}

// Nearest entry of the dynamic map; a tie goes to the lower one.
uint8_t nearest(float x) {
  const float* map = dynamicMap();
  const auto upper = std::upper_bound(map + 1, map + 255, x) - map;
  return static_cast<uint8_t>(x > (map[upper - 1] + map[upper]) / 2 ? upper : upper - 1);
}

}  // namespace

void cpu(const Nf4Quantize& op) {
  forDtype(op.w.dtype, [&](auto t) { quantize<decltype(t)>(op); });
}

void cpu(const Nf4QuantizeAbsmax& op) {
  const float* absmax = op.absmax.as<float>();
  const int64_t n = op.absmax.elements();
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += absmax[i];
  const float offset = static_cast<float>(sum / static_cast<double>(n));
  *op.nestedOffset.as<float>() = offset;
  parallelFor(ceilDiv(n, nf4NestedBlock), [&](int64_t block) {
    const int64_t first = block * nf4NestedBlock, end = std::min(n, first + nf4NestedBlock);
    float largest = 0;
    for (int64_t i = first; i < end; i++) largest = std::max(largest, std::fabs(absmax[i] - offset));
    op.nestedAbsmax.as<float>()[block] = largest;
    const float scale = largest > 0 ? 1 / largest : 0;
    for (int64_t i = first; i < end; i++) op.codes.as<uint8_t>()[i] = nearest((absmax[i] - offset) * scale);
  });
}

void cpu(const Nf4Dequantize& op) {
  const Nf4View view(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset);
  parallelRanges(ceilDiv(op.w.elements(), nf4Block), 256, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * nf4Block, op.w.elements());
    if (op.w.dtype == DType::f32)
      return view.decode(begin * nf4Block, last - begin * nf4Block, op.w.as<float>() + begin * nf4Block);
    float values[nf4Block];
    for (int64_t first = begin * nf4Block; first < last; first += nf4Block) {
      const int64_t count = std::min<int64_t>(nf4Block, last - first);
      view.decode(first, count, values);
      for (int64_t i = 0; i < count; i++) op.w.as<Bf16>()[first + i] = Bf16(values[i]);
    }
  });
}

void cpu(const Nf4Embedding& op) {
  const Nf4View view(op.packed, op.absmax, op.nestedAbsmax, op.nestedOffset);
  const int64_t hidden = op.y.columns();
  const int32_t* ids = op.ids.as<int32_t>();
  float* y = op.y.as<float>();
  const auto row = [&](int64_t i) { view.decode(ids[i] * hidden, hidden, y + i * hidden); };
  parallelFor(op.ids.elements(), row, rowGrain(hidden));
}

}  // namespace loram
