#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace loram {
namespace {

using Body = std::function<void(int64_t, int64_t)>;

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// Ops follow each other closely, and to wake a sleeping thread takes longer than many of them run: so a thread looks
// for its next job, or for the end of this one, for a moment before it sleeps. Short enough for others to get the
// processor.
constexpr auto patience = std::chrono::microseconds(20);

template <class Condition>
bool spinUntil(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 32; i++) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// One job at a time: workers and the caller take ranges from a shared counter until none is left. A worker that comes
// late finds the job closed, so the caller waits only for those who take part. A process has one pool; ops called from
// several JavaScript threads take turns.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t count, int64_t chunk, const Body& body) {
    std::lock_guard turn(turn_);
    {
      std::lock_guard lock(mutex_);
      body_ = &body;
      count_ = count;
      chunk_ = chunk;
      next_ = 0;
      error_ = nullptr;
      open_ = true;
      job_++;
    }
    wake_.notify_all();
    takeRanges();
    std::unique_lock lock(mutex_);
    open_ = false;
    if (active_ > 0) {
      lock.unlock();
      spinUntil([&] { return active_ == 0; });
      lock.lock();
      done_.wait(lock, [&] { return active_ == 0; });
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work() {
    int64_t seen = 0;
    while (true) {
      spinUntil([&] { return job_ != seen; });
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || job_ != seen; });
      if (stopping_) return;
      seen = job_;
      if (!open_) continue;
      active_++;
      lock.unlock();
      takeRanges();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  void takeRanges() {
    try {
      for (int64_t begin; (begin = next_.fetch_add(chunk_)) < count_;) {
        (*body_)(begin, std::min(begin + chunk_, count_));
      }
    } catch (...) {
      next_ = count_;
      std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const Body* body_ = nullptr;
  int64_t count_ = 0, chunk_ = 1;
  std::atomic<int64_t> next_{0}, job_{0};
  std::atomic<int> active_{0};
  bool open_ = false, stopping_ = false;
  std::exception_ptr error_;
};

int wantedThreads() {
  const char* text = std::getenv("LORAM_THREADS");
  const int wanted = text ? std::atoi(text) : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(wanted, 1, 256);
}

Pool& pool() {
  static Pool pool(wantedThreads());
  return pool;
}

// An op that runs inside a range of another one stays on its thread.
thread_local bool inside = false;

}  // namespace

int threadCount() { return pool().threads(); }

void parallelRanges(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  const int threads = threadCount();
  if (inside || threads == 1 || count <= grain) return body(0, count);
  // Four ranges a thread even out uneven work without much traffic on the counter.
  const int64_t chunk = std::max(grain, (count + 4 * threads - 1) / (4 * threads));
  const Body guarded = [&](int64_t begin, int64_t end) {
    inside = true;
    struct Reset {
      ~Reset() { inside = false; }
    } reset;
    body(begin, end);
  };
  pool().run(count, chunk, guarded);
}

}  // namespace loram
