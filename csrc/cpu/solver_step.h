// solver_step on the CPU: what the binding calls.
#pragma once

#include "../solver_step.h"

namespace fastdiff::cpu {

// Elements of a task. All operands of one fit the first-level cache: a call reads and writes up to a dozen of them.
constexpr int64_t kBlock = 1024;

constexpr int64_t kBlocksPerThread = 128;  // less than this and waking a thread costs more than it saves
constexpr int64_t kNoiseBlocks = 3;        // drawing a block of noise takes as long as the rest of three

// A block belongs to one sample, so that what is per sample is a number to it.
static inline int64_t blocks_per_sample(const SolverStep& step) {
  return (elements_per_sample(step) + kBlock - 1) / kBlock;
}

static inline int64_t blocks(const SolverStep& step) { return step.size[0] * blocks_per_sample(step); }

// How many threads are worth waking for this call, at least 1.
int useful_threads(const SolverStep& step);

// Uses at most `threads` threads; the result does not depend on how many.
void solver_step(const SolverStep& step, int threads);

}  // namespace fastdiff::cpu
