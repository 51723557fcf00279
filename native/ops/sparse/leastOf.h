#pragma once
#include <cstdint>

namespace loram {

constexpr int64_t largestGroup = 32;

// Which n of m values, m at most largestGroup, have the least scores; of equal ones the former.
class LeastOf {
 public:
  template <class Score>
  LeastOf(int64_t n, int64_t m, Score score) {
    float scores[largestGroup];
    for (int64_t j = 0; j < m; j++) scores[j] = score(j);
    for (int64_t j = 0; j < m; j++) {
      int64_t before = 0;
      for (int64_t k = 0; k < m; k++) before += scores[k] < scores[j] || (scores[k] == scores[j] && k < j);
      members |= static_cast<uint32_t>(before < n) << j;
    }
  }
  bool has(int64_t j) const { return members >> j & 1; }

 private:
  uint32_t members = 0;
};

}  // namespace loram
