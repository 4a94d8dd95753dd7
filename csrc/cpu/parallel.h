// The package's one thread pool.
#pragma once

#include <cstdint>

namespace fastdiff::cpu {

using Body = void (*)(const void* context, int64_t begin, int64_t end);

// Runs body over [0, count) in pieces on the caller's thread and at most `threads` - 1 others. Where the pool is busy
// with another caller's work the caller does all of it.
void parallel(int64_t count, int threads, Body body, const void* context);

}  // namespace fastdiff::cpu
