// token_stats on the CPU: what the binding calls.
#pragma once

#include "../token_stats.h"

namespace fastdiff::cpu {

// How many threads are worth waking for this call, at least 1.
int useful_threads(const TokenStats& stats);

// Uses at most `threads` threads; the result does not depend on how many.
void token_stats(const TokenStats& stats, int threads);

}  // namespace fastdiff::cpu
