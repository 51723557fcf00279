#pragma once
#include <algorithm>
#include <cstdint>

#include "../core/parallel.h"

namespace loram {

// sums[j] += sum over i of term(i, j), added up in double in the order of i, whatever the number of threads.
template <class Term>
void addColumnSums(int64_t rows, int64_t columns, float* sums, Term term) {
  constexpr int64_t width = 256;
  parallelRanges(columns, 64, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += width) {
      const int64_t count = std::min(width, end - first);
      double partial[width] = {};
      for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < count; j++) partial[j] += term(i, first + j);
      }
      for (int64_t j = 0; j < count; j++) sums[first + j] += static_cast<float>(partial[j]);
    }
  });
}

// Rows a thread should take at least, so that handing them out costs little beside the work.
inline int64_t rowGrain(int64_t columns) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)); }

}  // namespace loram
