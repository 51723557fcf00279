#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>

#include "../core/dtype.h"

namespace loram {

// Calls `body` with a value of the C++ type that `dtype` names, for the dtypes that ops compute in.
template <class Body>
void forFloat(DType dtype, Body body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(__nv_bfloat16{});
    default:
      throw std::invalid_argument("expected an f32 or bf16 tensor");
  }
}

// The same for every floating-point dtype.
template <class Body>
void forDtype(DType dtype, Body body) {
  if (dtype == DType::f16) return body(__half{});
  forFloat(dtype, body);
}

}  // namespace loram
