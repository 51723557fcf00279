// The numbers of bitsandbytes' 4-bit format, for every device.
#pragma once

namespace loram {

constexpr int nf4Block = 64, nf4NestedBlock = 256;

// A table that device code can be given a copy of.
template <int size>
struct Table {
  float values[size];
  constexpr float operator[](int i) const { return values[i]; }
};

// The NF4 values (QLoRA, arXiv 2305.14314, appendix E) as bitsandbytes has them in float32; the code is the index.
inline constexpr Table<16> nf4CodeBook{{
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
}};

// The signed dynamic map (8-bit optimizers, arXiv 2110.02861), ascending: for each exponent e = 0..6, 2^e values
// between 0.1 and 1 times 10^(e - 6) with both signs; also 0 and 1. The values are the means of neighbours in an even
// division of [0.1, 1], rounded where torch.linspace on the CPU rounds: from the nearer end, in one fused step (in
// double the step is exact). So the map is, bit for bit, the one in checkpoints.
constexpr Table<256> makeDynamicMap() {
  Table<256> map{};
  double power = 1e-6;
  for (int e = 0; e < 7; e++, power *= 10) {
    const int intervals = 1 << e;
    const float step = (1.0f - 0.1f) / static_cast<float>(intervals);
    const auto point = [&](int i) {
      return static_cast<float>(i < (intervals + 1) / 2 ? static_cast<double>(step) * i + static_cast<double>(0.1f)
                                                        : static_cast<double>(step) * (i - intervals) + 1.0);
    };
    for (int i = 0; i < intervals; i++) {
      const float value = (point(i) + point(i + 1)) / 2 * static_cast<float>(power);
      const int rank = intervals + i;
      map.values[127 + rank] = value;
      map.values[127 - rank] = -value;
    }
  }
  map.values[255] = 1;
  return map;
}

}  // namespace loram
