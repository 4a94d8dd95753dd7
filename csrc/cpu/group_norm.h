// group_norm on the CPU: what the binding calls.
#pragma once

#include "../group_norm.h"
#include "moments.h"

namespace fastdiff::cpu {

// A channels_last call cut into stretches of rows. How depends on the shape alone, so results do not depend on threads.
struct Slices {
  int64_t rows;      // positions of each but the last
  int64_t count;     // of one sample
  Moments* moments;  // [batch, count, groups]
  float* lines;      // [3, batch, channels]: offset, a and b
};

// How many threads are worth waking for this call, at least 1.
int useful_threads(const GroupNorm& norm);

// Uses at most `threads` threads; the result does not depend on how many.
void group_norm(const GroupNorm& norm, int threads);

}  // namespace fastdiff::cpu
