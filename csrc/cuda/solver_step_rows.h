// solver_step_rows on CUDA: what the binding calls.
#pragma once

#include "../solver_step_rows.h"

namespace fastdiff::cuda {

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* solver_step_rows(const SolverStepRows& step, void* stream);

}  // namespace fastdiff::cuda
