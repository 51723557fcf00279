#pragma once
#include <cstddef>

namespace loram {

// Copies between the GPU and pinned host memory, in the stream of a lane: after all that was queued in stream() so far, and
// beside what is queued there from now on.
void transfer(const void* source, void* target, size_t bytes, int lane);

// What is queued in stream() from now on waits for the lane's transfers so far.
void awaitTransfers(int lane);

}  // namespace loram
