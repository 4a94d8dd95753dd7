// group_norm on the CPU: what the binding calls.
#pragma once

#include "../group_norm.h"

namespace fastdiff::cpu {

// How many threads are worth waking for this call, at least 1.
int useful_threads(const GroupNorm& norm);

// Uses at most `threads` threads; the result does not depend on how many.
void group_norm(const GroupNorm& norm, int threads);

}  // namespace fastdiff::cpu
