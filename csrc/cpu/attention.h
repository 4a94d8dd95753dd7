// attention on the CPU: what the binding calls.
#pragma once

#include "../attention.h"

namespace fastdiff::cpu {

constexpr int64_t kMaxRows = 256, kMinRows = 64;  // queries of one head that a thread takes at a time

// How many threads are worth waking for this call, at least 1.
int useful_threads(const Attention& attention);

// Uses at most `threads` threads; the result does not depend on how many.
void attention(const Attention& attention, int threads);

}  // namespace fastdiff::cpu
