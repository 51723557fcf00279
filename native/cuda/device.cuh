#pragma once
#include "context.h"

namespace loram {

template <cudaDeviceAttr attribute>
int deviceAttribute() {
  static const int known = [] {
    int value;
    check(cudaDeviceGetAttribute(&value, attribute, gpuIndex()));
    return value;
  }();
  return known;
}
inline int multiprocessors() { return deviceAttribute<cudaDevAttrMultiProcessorCount>(); }

}  // namespace loram
