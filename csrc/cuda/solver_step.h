// solver_step on CUDA: what the binding calls.
#pragma once

#include "../solver_step.h"

namespace fastdiff::cuda {

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* solver_step(const SolverStep& step, void* stream);

}  // namespace fastdiff::cuda
