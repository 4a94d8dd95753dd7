// solver_step_rows on the CPU: what the binding calls.
#pragma once

#include "../solver_step_rows.h"

namespace fastdiff::cpu {

// How many threads are worth waking for this call, at least 1.
int useful_threads(const SolverStepRows& step);

// Uses at most `threads` threads; the result does not depend on how many. Every record can be run.
void solver_step_rows(const SolverStepRows& step, int threads);

}  // namespace fastdiff::cpu
