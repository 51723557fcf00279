#include "../../cpu/reduce.h"
#include "../ops.h"

namespace loram {

void cpu(const Embedding& op) {
  const int64_t hidden = op.y.columns();
  const int32_t* ids = op.ids.as<int32_t>();
  float* y = op.y.as<float>();
  forDtype(op.weight.dtype, [&](auto type) {
    const auto* weight = op.weight.as<decltype(type)>();
    const auto row = [&](int64_t i) {
      for (int64_t j = 0; j < hidden; j++) y[i * hidden + j] = weight[ids[i] * hidden + j];
    };
    parallelFor(op.ids.elements(), row, rowGrain(hidden));
  });
}

// Threads share out the columns, not the tokens: an id that occurs twice is then added by one thread, in order.
void cpu(const EmbeddingBackward& op) {
  const int64_t tokens = op.ids.elements(), hidden = op.dy.columns();
  const int32_t* ids = op.ids.as<int32_t>();
  const float* dy = op.dy.as<float>();
  float* dweight = op.dweight.as<float>();
  parallelRanges(hidden, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < tokens; i++) {
      for (int64_t j = begin; j < end; j++) dweight[ids[i] * hidden + j] += dy[i * hidden + j];
    }
  });
}

}  // namespace loram
