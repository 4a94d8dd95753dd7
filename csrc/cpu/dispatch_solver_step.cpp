#include <algorithm>

#include "isa.h"
#include "parallel.h"
#include "solver_step.h"

namespace fastdiff::cpu {

namespace {

constexpr int64_t kBlocksPerThread = 128;  // less than this and waking a thread costs more than it saves
constexpr int64_t kNoiseBlocks = 3;        // drawing a block of noise takes as long as the rest of three

}  // namespace

int useful_threads(const SolverStep& step) {
  int64_t work = blocks(step);
  for (int j = 0; j < kMaxNoise; ++j) work += reads_noise(step.row, j) ? kNoiseBlocks * work : 0;
  return threads_for(work, kBlocksPerThread);
}

void solver_step(const SolverStep& step, int threads) {
  const auto run = kernels().solver_step;
  parallel(blocks(step), std::min(threads, useful_threads(step)), [&, run](int64_t first, int64_t last) {
    run(step, first, last);
  });
}

}  // namespace fastdiff::cpu
