// Samples at rows of their own are calls of solver_step with a batch of one, whose blocks are shared among the threads.
#include <algorithm>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "solver_step.h"
#include "solver_step_rows.h"

namespace fastdiff::cpu {

namespace {

// The sample's part of an operand.
Operand part(Operand all, int64_t sample) {
  const int64_t bytes = all.dtype == DType::f64 ? 8 : all.dtype == DType::f32 ? 4 : 2;
  if (all.data != nullptr) all.data = static_cast<char*>(all.data) + sample * all.stride[0] * bytes;
  return all;
}

class SampleSteps {
 public:
  explicit SampleSteps(const SolverStepRows& all) : all_(all) {}

  SolverStep operator()(int64_t sample) const {
    const Record& record = all_.table[all_.rows[sample]];
    const auto buffer = [&](int slot) { return buffer_part(record.slot[slot], sample); };
    SolverStep step;
    step.row = record.row;
    step.dims = all_.dims;
    std::copy(all_.size, all_.size + kMaxDims, step.size);
    step.size[0] = 1;
    step.x = buffer(kSlotX), step.base = buffer(kSlotBase);
    for (int k = 0; k < kMaxHistory - 1; ++k) step.history[k] = buffer(kSlotHistory + k);
    step.out_x = buffer(kSlotOutX), step.out_base = buffer(kSlotOutBase), step.out_d = buffer(kSlotOutD);
    add_outputs(step, sample);
    add_numbers(step, sample);
    return step;
  }

 private:
  Operand buffer_part(double number, int64_t sample) const {
    Operand operand = all_.layout;
    operand.data = is_buffer(all_, number) ? all_.buffer[static_cast<int>(number)] : nullptr;
    return part(operand, sample);
  }

  void add_outputs(SolverStep& step, int64_t sample) const {
    step.m = part(all_.m, sample), step.state = part(all_.state, sample);
    step.m_uncond = part(all_.m_uncond, sample);
    for (int k = 0; k < kMaxOthers; ++k) step.others[k] = part(all_.others[k], sample);
    step.out_state = part(all_.out_state, sample), step.out_input = part(all_.out_input, sample);
    step.copies = all_.copies;
    step.out_input.stride[0] *= all_.size[0];  // from copy to copy
  }

  void add_numbers(SolverStep& step, int64_t sample) const {
    if (all_.weights) step.weights = all_.weights + sample * all_.sets * kColumns, step.sets = all_.sets;
    const double guidance = all_.guidance ? all_.guidance[sample] : step.row.guidance;
    step.row.guidance = guidance;
    if (guidance != guidance && !all_.weights) step.m_uncond.data = nullptr;
    if (all_.threshold) step.threshold = all_.threshold + sample;
    if (all_.seeds) step.seeds = all_.seeds + sample;
  }

  const SolverStepRows& all_;
};

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
  const SampleSteps own(step);
  parallel(count, std::min(threads, useful_threads(step)), [&, run](int64_t first, int64_t last) {
    for (int64_t k = first, next; k < last; k = next) {
      const int64_t place = k / blocks, begin = place * blocks;
      next = std::min(last, begin + blocks);
      run(own(samples[place]), k - begin, next - begin);
    }
  });
}

}  // namespace fastdiff::cpu
