#include <cstring>

#include "../../cpu/reduce.h"
#include "../ops.h"

namespace loram {

void cpu(const GatherRows& op) {
  const int64_t bytes = op.x.columns() * bytesPerElement(op.x.dtype);
  const auto row = [&](int64_t i) {
    std::memcpy(op.y.as<char>() + i * bytes, op.x.as<char>() + op.indices.as<int32_t>()[i] * bytes, bytes);
  };
  parallelFor(op.indices.elements(), row, rowGrain(bytes));
}

void cpu(const ScatterRows& op) {
  const int64_t bytes = op.x.columns() * bytesPerElement(op.x.dtype);
  const auto row = [&](int64_t i) {
    std::memcpy(op.y.as<char>() + op.indices.as<int32_t>()[i] * bytes, op.x.as<char>() + i * bytes, bytes);
  };
  parallelFor(op.indices.elements(), row, rowGrain(bytes));
}

void cpu(const GatherColumns& op) {
  const int64_t kept = op.indices.elements(), columns = op.x.columns();
  const int32_t* indices = op.indices.as<int32_t>();
  forWidth(op.x.dtype, [&](auto type) {
    const auto* x = op.x.as<decltype(type)>();
    auto* y = op.y.as<decltype(type)>();
    const auto row = [&](int64_t i) {
      for (int64_t j = 0; j < kept; j++) y[i * kept + j] = x[i * columns + indices[j]];
    };
    parallelFor(op.x.rows(), row, rowGrain(kept));
  });
}

void cpu(const ScatterColumns& op) {
  const int64_t kept = op.indices.elements(), columns = op.y.columns();
  const int32_t* indices = op.indices.as<int32_t>();
  forWidth(op.x.dtype, [&](auto type) {
    const auto* x = op.x.as<decltype(type)>();
    auto* y = op.y.as<decltype(type)>();
    const auto row = [&](int64_t i) {
      for (int64_t j = 0; j < kept; j++) y[i * columns + indices[j]] = x[i * kept + j];
    };
    parallelFor(op.y.rows(), row, rowGrain(kept));
  });
}

}  // namespace loram
