#pragma once
#include <cstddef>

namespace loram {

// Copies between the GPU and pinned host memory, in a stream of their own: after all that was queued in stream() so far, and
// beside what is queued there from now on.
void transfer(const void* source, void* target, size_t bytes);

// What is queued in stream() from now on waits for the transfers so far.
void awaitTransfers();

}  // namespace loram
