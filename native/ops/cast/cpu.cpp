#include <bit>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../../core/parallel.h"
#include "../ops.h"

namespace loram {
namespace {

constexpr int64_t block = 16384;

// The bits of an infinity, which are also the exponent's mask: infinities and NaN are the values with all of it set.
template <class T>
constexpr uint32_t infinityBits() {
  return std::is_same_v<T, float> ? 0x7f800000 : std::is_same_v<T, Bf16> ? 0x7f80 : 0x7c00;
}

template <class T>
bool isFinite(const T& value) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  return (std::bit_cast<Bits>(value) & infinityBits<T>()) != infinityBits<T>();
}

struct NonFinite {
  int64_t count = 0, first = -1;
};

template <class T>
NonFinite findNonFinite(const T* x, int64_t begin, int64_t end) {
  int64_t finite = 0;
  for (int64_t i = begin; i < end; i++) finite += isFinite(x[i]);
  if (finite == end - begin) return {};
  int64_t first = begin;
  while (isFinite(x[first])) first++;
  return {end - begin - finite, first};
}

}  // namespace

void cpu(const Cast& op) {
  if (op.x.dtype == op.y.dtype) {
    std::memcpy(op.y.data, op.x.data, op.x.bytes());
    return;
  }
  forDtype(op.x.dtype, [&](auto from) {
    forDtype(op.y.dtype, [&](auto to) {
      const auto* x = op.x.as<decltype(from)>();
      auto* y = op.y.as<decltype(to)>();
      const auto convert = [&](int64_t i) { y[i] = static_cast<decltype(to)>(static_cast<float>(x[i])); };
      parallelFor(op.x.elements(), convert, block);
    });
  });
}

void cpu(const CountNonFinite& op) {
  const int64_t n = op.x.elements();
  std::vector<NonFinite> found((n + block - 1) / block);
  forDtype(op.x.dtype, [&](auto type) {
    const auto* x = op.x.as<decltype(type)>();
    parallelFor(static_cast<int64_t>(found.size()),
                [&](int64_t i) { found[i] = findNonFinite(x, i * block, std::min(n, (i + 1) * block)); });
  });
  NonFinite all;
  for (const NonFinite& part : found) {
    all.count += part.count;
    if (all.first < 0) all.first = part.first;
  }
  op.count.as<int64_t>()[0] = all.count;
  op.count.as<int64_t>()[1] = all.first;
}

}  // namespace loram
