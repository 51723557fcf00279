#pragma once
#include <cstdint>
#include <functional>

namespace loram {

// Threads that share the work of an op, the caller included: LORAM_THREADS, or the number of processors.
int threadCount();

// Calls body(begin, end) on ranges that together cover [0, count) exactly once, from several threads; returns when all
// are done. Ranges are at least `grain` long, so small work stays on the calling thread. What a range computes must not
// depend on where ranges begin: results are the same for every number of threads.
void parallelRanges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

template <class Body>
void parallelFor(int64_t count, Body body, int64_t grain = 1) {
  parallelRanges(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) body(i);
  });
}

// Calls body(begin, size) for the blocks of [0, count), of which only the last may be smaller than `block`.
template <class Body>
void parallelBlocks(int64_t count, int64_t block, Body body) {
  parallelFor((count + block - 1) / block, [&](int64_t i) {
    const int64_t begin = i * block;
    body(begin, count - begin < block ? count - begin : block);
  });
}

}  // namespace loram
