// The kernels of one instruction set, over the vector type `Simd` that the including file defines in its own unnamed
// namespace, under its own target. So nothing here may come from a header that other files share: the linker would keep
// one copy, perhaps the one with instructions that the processor lacks.

constexpr int lanes = Simd::lanes, tileRows = Simd::tileRows, tileColumns = 2 * lanes;
using Vec = Simd::Vec;

template <int rows, int vectors>
void microTile(int columns, int64_t k, const float* a, const float* b, float* c, int64_t ldc, float alpha, float beta) {
  Vec sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) sum[i][v] = Simd::broadcast(0);
  }
  for (int64_t p = 0; p < k; p++, a += rows, b += tileColumns) {
    Vec right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = Simd::load(b + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const Vec left = Simd::broadcast(a[i]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sum[i][v] = Simd::multiplyAdd(left, right[v], sum[i][v]);
    }
  }
  const Vec scale = Simd::broadcast(alpha), keep = Simd::broadcast(beta);
  const int last = columns - (vectors - 1) * lanes;
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
      float* target = c + i * ldc + v * lanes;
      const int count = v == vectors - 1 ? last : lanes;
      Vec result = Simd::multiply(scale, sum[i][v]);
      if (beta != 0) result = Simd::multiplyAdd(keep, Simd::load(target, count), result);
      Simd::store(target, result, count);
    }
  }
}

template <int rows>
void rowsTile(int columns, int64_t k, const float* a, const float* b, float* c, int64_t ldc, float alpha, float beta) {
  (columns > lanes ? microTile<rows, 2> : microTile<rows, 1>)(columns, k, a, b, c, ldc, alpha, beta);
}

using RowsTile = void (*)(int, int64_t, const float*, const float*, float*, int64_t, float, float);

template <int... i>
RowsTile chooseRows(int rows, std::integer_sequence<int, i...>) {
  static constexpr RowsTile choice[] = {rowsTile<i + 1>...};
  return choice[rows - 1];
}

void tile(int rows, int columns, int64_t k, const float* a, const float* b, float* c, int64_t ldc, float alpha,
          float beta) {
  chooseRows(rows, std::make_integer_sequence<int, tileRows>{})(columns, k, a, b, c, ldc, alpha, beta);
}

void transpose(const float* source, int64_t stride, int count, int64_t k, float* panel, int width) {
  for (int i = 0; i < count; i += lanes) {
    const int n = count - i < lanes ? count - i : lanes;
    const float* rows = source + i * stride;
    int64_t j = 0;
    for (; j + lanes <= k; j += lanes) {
      Vec square[lanes];
      for (int r = 0; r < lanes; r++) square[r] = r < n ? Simd::load(rows + r * stride + j) : Simd::broadcast(0);
      Simd::transpose(square);
      for (int r = 0; r < lanes; r++) Simd::store(panel + (j + r) * width + i, square[r], n);
    }
    for (; j < k; j++) {
      for (int r = 0; r < n; r++) panel[j * width + i + r] = rows[r * stride + j];
    }
  }
}

void copy(const float* source, int64_t stride, int count, int64_t k, float* panel, int width) {
  for (int64_t j = 0; j < k; j++) {
    for (int i = 0; i < count; i += lanes) {
      const int n = count - i < lanes ? count - i : lanes;
      Simd::store(panel + j * width + i, Simd::load(source + j * stride + i, n), n);
    }
  }
}

// Lanes of a row of weights from element `at` on; `tail` are the n < lanes at its end, then zeros.
Vec lanesOf(const float* row, int64_t at) { return Simd::load(row + at); }
Vec lanesOf(const Bf16* row, int64_t at) { return Simd::loadBf16(row + at); }
Vec lanesOf(const Nf4Blocks& row, int64_t at) {
  return Simd::multiply(Simd::loadNf4(row.packed + at / 2), Simd::broadcast(row.scales[at / nf4Block]));
}
Vec tail(const float* row, int64_t at, int n) { return Simd::load(row + at, n); }
Vec tail(const Bf16* row, int64_t at, int n) {
  float values[lanes] = {};
  for (int i = 0; i < n; i++) values[i] = row[at + i];
  return Simd::load(values);
}
Vec tail(const Nf4Blocks&, int64_t, int) { return Simd::broadcast(0); }

template <int m, class Row>
void dotRows(const Row* w, const float* x, int64_t stride, int64_t k, float* sums) {
  Vec sum[m][4];
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < 4; j++) sum[i][j] = Simd::broadcast(0);
  }
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) {
    Vec right[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) right[j] = lanesOf(w[j], p);
#pragma GCC unroll 4
    for (int i = 0; i < m; i++) {
      const Vec left = Simd::load(x + i * stride + p);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) sum[i][j] = Simd::multiplyAdd(left, right[j], sum[i][j]);
    }
  }
  const int rest = static_cast<int>(k - p);
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < 4; j++) {
      if (rest) sum[i][j] = Simd::multiplyAdd(Simd::load(x + i * stride + p, rest), tail(w[j], p, rest), sum[i][j]);
      sums[i * 4 + j] = Simd::sum(sum[i][j]);
    }
  }
}

template <class Row>
void dot(const Row* w, const float* x, int64_t stride, int m, int64_t k, float* sums) {
  static constexpr decltype(&dotRows<1, Row>) choice[] = {dotRows<1, Row>, dotRows<2, Row>, dotRows<3, Row>,
                                                          dotRows<4, Row>};
  choice[m - 1](w, x, stride, k, sums);
}

// Philox4x32-10 as in core/philox.h, a counter in every 64-bit lane; of a word's lane only the lower half counts.
void dropoutMask(uint64_t seed, uint64_t stream, uint64_t first, uint32_t threshold, float keep, float* mask) {
  constexpr int counters = 16, wideLanes = lanes / 2;
  using Wide = Simd::Wide;
  uint64_t even[counters], odd[counters], words[2 * counters];
  for (int c = 0; c < counters; c += wideLanes) {
    Wide c0;
    for (int l = 0; l < wideLanes; l++) c0[l] = first + c + l;
    Wide c1 = c0 >> 32, c2 = Wide{} + stream, c3 = c2 >> 32;
    uint64_t k0 = seed, k1 = seed >> 32;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
      const Wide p0 = Simd::multiplyLow(c0, 0xD2511F53), p1 = Simd::multiplyLow(c2, 0xCD9E8D57);
      c0 = p1 >> 32 ^ c1 ^ k0;
      c2 = p0 >> 32 ^ c3 ^ k1;
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    c0 = (c0 & 0xffffffff) | c1 << 32;
    c2 = (c2 & 0xffffffff) | c3 << 32;
    __builtin_memcpy(even + c, &c0, sizeof c0);
    __builtin_memcpy(odd + c, &c2, sizeof c2);
  }
  for (int c = 0; c < counters; c++) {
    words[2 * c] = even[c];
    words[2 * c + 1] = odd[c];
  }
  uint32_t word[4 * counters];
  __builtin_memcpy(word, words, sizeof word);
  for (int i = 0; i < 4 * counters; i++) mask[i] = word[i] >> 8 >= threshold ? keep : 0.0f;
}

void widenBf16(const Bf16* source, int64_t count, float* target) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) Simd::store(target + i, Simd::loadBf16(source + i));
  for (; i < count; i++) target[i] = source[i];
}

void decodeNf4(const uint8_t* packed, int64_t count, float scale, float* target) {
  const Vec scales = Simd::broadcast(scale);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    Simd::store(target + i, Simd::multiply(Simd::loadNf4(packed + i / 2), scales));
  }
  for (; i < count; i++) target[i] = nf4CodeBook[i % 2 ? packed[i / 2] & 15 : packed[i / 2] >> 4] * scale;
}

constexpr Kernels table = {tileRows, tileColumns, tile,        transpose, copy,     dot,
                           dot,      dot,         dropoutMask, widenBf16, decodeNf4};
