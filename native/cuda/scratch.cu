#include "scratch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "context.h"

namespace loram {
namespace {

// CUDA's allocator costs the host as much as queueing a kernel, and a step takes thousands of pieces: small ones lie in a
// block that stays, one after another, since each is given back before those taken earlier. Under a sanitizer all have memory
// of their own, so that it sees what is read or written beyond them.
const size_t blockBytes = std::getenv("LORAM_SANITIZE") ? 0 : 16 << 20;
constexpr size_t alignment = 256;

char* block;
size_t top, taken;
std::atomic<size_t> peak;

}  // namespace

void* takeScratch(size_t bytes, cudaStream_t stream) {
  void* data;
  const size_t room = (bytes + alignment - 1) / alignment * alignment;
  if (room <= blockBytes - top) {
    if (!block) checkAllocation(cudaMalloc(&block, blockBytes), blockBytes);
    data = block + top;
    top += room;
  } else {
    checkAllocation(cudaMallocAsync(&data, bytes, stream), bytes);
  }
  taken += bytes;
  peak = std::max<size_t>(peak, taken);
  return data;
}

void giveScratchBack(void* data, size_t bytes, cudaStream_t stream) {
  taken -= bytes;
  char* start = static_cast<char*>(data);
  if (block && start >= block && start < block + blockBytes) {
    top = start - block;
  } else {
    cudaFreeAsync(data, stream);
  }
}

size_t scratchPeak() { return peak; }

}  // namespace loram
