// solver_step on the CPU: what the binding calls.
#pragma once

#include "../solver_step.h"

namespace fastdiff::cpu {

// How many threads are worth waking for this call, at least 1.
int useful_threads(const SolverStep& step);

// Uses at most `threads` threads; the result does not depend on how many.
void solver_step(const SolverStep& step, int threads);

}  // namespace fastdiff::cpu
