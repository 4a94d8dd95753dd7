#include <algorithm>

#include "isa.h"
#include "parallel.h"
#include "solver_step.h"

namespace fastdiff::cpu {

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
