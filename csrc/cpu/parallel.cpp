#include "parallel.h"

#include <pthread.h>

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

struct Job {
  int64_t count;
  int parts;
  Body body;
  const void* context;

  void run(int part) const { body(context, count * part / parts, count * (part + 1) / parts); }
};

struct Worker {
  std::atomic<bool> called{false};
  std::mutex mutex;
  std::condition_variable wake;

  void call() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      called.store(true, std::memory_order_release);
    }
    wake.notify_one();
  }

  void wait() {
    const auto was_called = [this] { return called.load(std::memory_order_acquire); };
    if (!spin_until(was_called)) {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, was_called);
    }
    called.store(false, std::memory_order_relaxed);
  }
};

class Pool {
 public:
  void run(Job job) {
    start_workers(job.parts - 1);
    const int helpers = static_cast<int>(workers_.size()) < job.parts ? static_cast<int>(workers_.size()) : job.parts - 1;
    job.parts = helpers + 1;
    job_ = job;
    remaining_.store(helpers, std::memory_order_relaxed);
    for (int i = 0; i < helpers; ++i) workers_[i]->call();
    job.run(0);
    while (!spin_until([this] { return remaining_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
  }

  std::mutex busy;  // held while a job runs

 private:
  // Where the system gives no more threads, those there are share the work.
  void start_workers(int wanted) {
    while (static_cast<int>(workers_.size()) < wanted) {
      workers_.push_back(std::make_unique<Worker>());
      try {
        std::thread(&Pool::serve, this, workers_.back().get(), static_cast<int>(workers_.size())).detach();
      } catch (const std::system_error&) {
        workers_.pop_back();
        return;
      }
    }
  }

  void serve(Worker* self, int part) {
    for (;;) {
      self->wait();
      job_.run(part);
      remaining_.fetch_sub(1, std::memory_order_release);
    }
  }

  Job job_{};
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<int> remaining_{0};
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
  if (threads > count) threads = static_cast<int>(count);
  if (threads > 1) {
    Pool& shared = the_pool();
    std::unique_lock<std::mutex> mine(shared.busy, std::try_to_lock);
    if (mine.owns_lock()) return shared.run({count, threads, body, context});
  }
  body(context, 0, count);
}

}  // namespace fastdiff::cpu
