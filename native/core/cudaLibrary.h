#pragma once
#include <string>

namespace loram {

// The CUDA ops live in a library of their own, opened at run time, so that one addon serves machines with and without a
// GPU. Says why the library at `path` cannot be used: not built, not loadable, or of another version. "" when it can.
std::string cudaLibraryStatus(const std::string& path);

}  // namespace loram
