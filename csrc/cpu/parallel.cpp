// A pool of the package's own: OpenMP would bring a second run-time library and a second set of threads beside torch's,
// and torch's own cannot be reached without its headers. Workers spin for a moment after a job, because the next step
// of a sampler often follows at once, and then sleep.
#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastdiff::cpu {

namespace {

constexpr int kChunksPerThread = 4;
constexpr int kSpins = 1000;  // some 10 us: longer would hold a core that torch's own threads want

template <class Done>
bool spin_until(Done done) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return true;
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  return done();
}

// Whoever is awake takes the next chunk, so a helper that wakes late, or has lost its core, holds nobody up.
struct Job {
  int64_t count, chunks;
  Body body;
  const void* context;
  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      body(context, k * count / chunks, (k + 1) * count / chunks);
    }
  }
};

class Worker {
 public:
  void call(Job* job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      state_.store(kCalled, std::memory_order_release);
    }
    wake_.notify_one();
  }

  // Takes the call back if it has not been heard yet; otherwise waits until the worker is done.
  void dismiss() {
    int heard = kCalled;
    if (state_.compare_exchange_strong(heard, kIdle)) return;
    while (!spin_until([this] { return state_.load(std::memory_order_acquire) == kIdle; })) std::this_thread::yield();
  }

  void serve() {
    const auto called = [this] { return state_.load(std::memory_order_acquire) == kCalled; };
    for (;;) {
      if (!spin_until(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      int heard = kCalled;
      if (!state_.compare_exchange_strong(heard, kRunning)) continue;
      job_->run();
      state_.store(kIdle, std::memory_order_release);
    }
  }

 private:
  enum { kIdle, kCalled, kRunning };

  std::atomic<int> state_{kIdle};
  Job* job_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
};

class Pool {
 public:
  void run(Job& job, int helpers) {
    start(helpers);
    helpers = std::min(helpers, static_cast<int>(workers_.size()));
    for (int i = 0; i < helpers; ++i) workers_[i]->call(&job);
    job.run();
    for (int i = 0; i < helpers; ++i) workers_[i]->dismiss();
  }

  std::mutex busy;  // held while a job runs

 private:
  // Where the system gives no more threads, those there are share the work.
  void start(int wanted) {
    while (static_cast<int>(workers_.size()) < wanted) {
      workers_.push_back(std::make_unique<Worker>());
      try {
        std::thread(&Worker::serve, workers_.back().get()).detach();
      } catch (const std::system_error&) {
        workers_.pop_back();
        return;
      }
    }
  }

  std::vector<std::unique_ptr<Worker>> workers_;
};

std::atomic<Pool*> pool{nullptr};  // never destroyed: its workers sleep in it until the process ends

// A forked child has the parent's pool without its threads, so it starts its own.
void forget_pool() { pool.store(nullptr); }

Pool& the_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  Pool* found = pool.load();
  if (found == nullptr) {
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
  }
  return *found;
}

}  // namespace

void parallel(int64_t count, int threads, Body body, const void* context) {
  if (threads > 1) {
    Pool& shared = the_pool();
    std::unique_lock<std::mutex> mine(shared.busy, std::try_to_lock);
    if (mine.owns_lock()) {
      Job job{count, std::min<int64_t>(count, kChunksPerThread * threads), body, context};
      return shared.run(job, threads - 1);
    }
  }
  body(context, 0, count);
}

}  // namespace fastdiff::cpu
