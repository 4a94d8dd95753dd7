// Samples at rows of their own are calls of solver_step with a batch of one, whose blocks are shared among the threads.
#include <algorithm>
#include <vector>

#include "../sample_step.h"
#include "isa.h"
#include "parallel.h"
#include "solver_step.h"
#include "solver_step_rows.h"

namespace fastdiff::cpu {

namespace {

std::vector<int64_t> moving(const SolverStepRows& step) {
  std::vector<int64_t> samples;
  samples.reserve(step.size[0]);
  for (int64_t b = 0; b < step.size[0]; ++b) {
    if (step.rows[b] >= 0) samples.push_back(b);
  }
  return samples;
}

int64_t blocks_of_a_sample(const SolverStepRows& step) { return (elements_per_sample(step) + kBlock - 1) / kBlock; }

}  // namespace

int useful_threads(const SolverStepRows& step) {
  int64_t work = 0;
  for (int64_t b = 0; b < step.size[0]; ++b) {
    if (step.rows[b] < 0) continue;
    const Row& row = step.table[step.rows[b]].row;
    int64_t passes = 1;
    for (int j = 0; j < kMaxNoise; ++j) passes += reads_noise(row, j) ? kNoiseBlocks * passes : 0;
    work += passes * blocks_of_a_sample(step);
  }
  return threads_for(work, kBlocksPerThread);
}

void solver_step_rows(const SolverStepRows& step, int threads) {
  const auto run = kernels().solver_step;
  const std::vector<int64_t> samples = moving(step);
  const int64_t blocks = blocks_of_a_sample(step), count = static_cast<int64_t>(samples.size()) * blocks;
  parallel(count, std::min(threads, useful_threads(step)), [&, run](int64_t first, int64_t last) {
    for (int64_t k = first, next; k < last; k = next) {
      const int64_t place = k / blocks, begin = place * blocks;
      next = std::min(last, begin + blocks);
      run(sample_step(step, samples[place]), k - begin, next - begin);
    }
  });
}

}  // namespace fastdiff::cpu
