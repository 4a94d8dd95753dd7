// The package's one thread pool.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastdiff::cpu {

using Body = void (*)(const void* context, int64_t begin, int64_t end);

// Runs body over [0, count) in pieces on the caller's thread and at most `threads` - 1 others. Where the pool is busy
// with another caller's work the caller does all of it.
void parallel(int64_t count, int threads, Body body, const void* context);

// The same with body(begin, end).
template <class F>
void parallel(int64_t count, int threads, const F& body) {
  const auto call = [](const void* context, int64_t begin, int64_t end) {
    (*static_cast<const F*>(context))(begin, end);
  };
  parallel(count, threads, call, &body);
}

// How many threads are worth waking for so much work, at least 1.
inline int threads_for(int64_t work, int64_t work_per_thread) {
  constexpr int64_t kMaxThreads = 256;
  return static_cast<int>(std::clamp<int64_t>(work / work_per_thread, 1, kMaxThreads));
}

}  // namespace fastdiff::cpu
