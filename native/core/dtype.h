#pragma once
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace loram {

// The order is that of `dtypes` in src/tensor/dtype.ts.
enum class DType : int32_t { f32, bf16, f16, u8, i32, i64 };

constexpr int64_t bytesPerElement(DType dtype) {
  constexpr int64_t bytes[] = {4, 2, 2, 1, 4, 8};
  return bytes[static_cast<int>(dtype)];
}

#ifndef __CUDACC__  // there native/cuda/dtype.cuh has the hardware's own types

// IEEE bfloat16: the upper half of a float. Conversion from float rounds to nearest even; NaN stays NaN.
struct Bf16 {
  uint16_t bits;
  Bf16() = default;
  explicit Bf16(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    if ((u & 0x7fffffff) > 0x7f800000) {
      bits = static_cast<uint16_t>(u >> 16 | 0x40);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
  }
  operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};

// IEEE binary16, through the compiler's own type: round to nearest even, subnormals and infinities included.
using F16 = _Float16;

// Calls `body` with a value of the C++ type that `dtype` names, for the floating-point dtypes.
template <class Body>
void forDtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(Bf16{});
    case DType::f16:
      return body(F16{});
    default:
      throw std::invalid_argument("expected a floating-point tensor");
  }
}

#endif

// Calls `body` with an unsigned integer as wide as the elements of `dtype`, for ops that only move bits.
template <class Body>
void forWidth(DType dtype, Body body) {
  switch (bytesPerElement(dtype)) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    default:
      return body(uint64_t{});
  }
}

}  // namespace loram
