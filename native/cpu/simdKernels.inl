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

void transpose(const float* const* rows, int count, int64_t k, float* panel, int width) {
  for (int i = 0; i < count; i += lanes) {
    const int n = count - i < lanes ? count - i : lanes;
    int64_t j = 0;
    for (; j + lanes <= k; j += lanes) {
      Vec square[lanes];
      for (int r = 0; r < lanes; r++) square[r] = r < n ? Simd::load(rows[i + r] + j) : Simd::broadcast(0);
      Simd::transpose(square);
      for (int r = 0; r < lanes; r++) Simd::store(panel + (j + r) * width + i, square[r], n);
    }
    for (; j < k; j++) {
      for (int r = 0; r < n; r++) panel[j * width + i + r] = rows[i + r][j];
    }
  }
}

template <int m>
void dotRows(const float* const* w, const float* x, int64_t ldx, int64_t k, float* sums) {
  Vec sum[m][4];
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < 4; j++) sum[i][j] = Simd::broadcast(0);
  }
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) {
    const Vec right[4] = {Simd::load(w[0] + p), Simd::load(w[1] + p), Simd::load(w[2] + p), Simd::load(w[3] + p)};
#pragma GCC unroll 4
    for (int i = 0; i < m; i++) {
      const Vec left = Simd::load(x + i * ldx + p);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) sum[i][j] = Simd::multiplyAdd(left, right[j], sum[i][j]);
    }
  }
  const int rest = static_cast<int>(k - p);
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < 4; j++) {
      if (rest) sum[i][j] = Simd::multiplyAdd(Simd::load(x + i * ldx + p, rest), Simd::load(w[j] + p, rest), sum[i][j]);
      sums[i * 4 + j] = Simd::sum(sum[i][j]);
    }
  }
}

void dot(const float* const* w, const float* x, int64_t ldx, int m, int64_t k, float* sums) {
  static constexpr decltype(&dotRows<1>) choice[] = {dotRows<1>, dotRows<2>, dotRows<3>, dotRows<4>};
  choice[m - 1](w, x, ldx, k, sums);
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
