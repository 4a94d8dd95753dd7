// group_norm on the CPU: what the binding calls.
#pragma once

#include "../group_norm.h"
#include "moments.h"

namespace fastdiff::cpu {

constexpr int64_t kCached = 1 << 18;  // bytes of x that a core's cache keeps beside as many of y and of what comes next
constexpr int64_t kMaxTogether = 64;

static inline int64_t element_bytes(const GroupNorm& norm) { return norm.dtype == DType::f32 ? 4 : 2; }

// How many neighbouring groups of a channels_last call one task takes over all positions, so that its rows are whole
// vectors and tasks remain for threads; 0 where that is too much to be read again from the cache, or where rows are too
// short to be read fast: see Slices.
static inline int64_t groups_together(const GroupNorm& norm) {
  constexpr int64_t kWhole = 16, kTasks = 16, kRowBytes = 256;
  const int64_t size = norm.channels / norm.groups, bytes = size * norm.positions * element_bytes(norm);
  int64_t together = 1;
  while (together * size % kWhole != 0) together *= 2;
  if (norm.groups % together != 0 || together * bytes > kCached) return 0;
  const auto fits = [&](int64_t more) {
    return norm.groups % more == 0 && more * bytes <= kCached && more <= kMaxTogether &&
           norm.batch * norm.groups / more >= kTasks;
  };
  while (fits(2 * together)) together *= 2;
  return together * size * element_bytes(norm) >= kRowBytes ? together : 0;
}

// A larger channels_last call, cut into stretches of rows. How depends on the shape alone, so results do not depend on
// threads.
struct Slices {
  int64_t rows;      // positions of each but the last
  int64_t count;     // of one sample
  Moments* moments;  // [batch, count, groups]
  float* affine;     // [3, batch, channels]: offset, a and b
};

// How many threads are worth waking for this call, at least 1.
int useful_threads(const GroupNorm& norm);

// Uses at most `threads` threads; the result does not depend on how many.
void group_norm(const GroupNorm& norm, int threads);

}  // namespace fastdiff::cpu
