// One sample of a SolverStepRows as a SolverStep with a batch of one: what the CPU runs, and what the device's steps are
// held to.
#pragma once

#include <algorithm>

#include "solver_step_rows.h"

namespace fastdiff {

// The sample's part of an operand.
inline Operand part(Operand all, int64_t sample) {
  const int64_t bytes = all.dtype == DType::f64 ? 8 : all.dtype == DType::f32 ? 4 : 2;
  if (all.data != nullptr) all.data = static_cast<char*>(all.data) + sample * all.stride[0] * bytes;
  return all;
}

inline Operand buffer_part(const SolverStepRows& all, double number, int64_t sample) {
  Operand operand = all.layout;
  operand.data = is_buffer(all, number) ? all.buffer[static_cast<int>(number)] : nullptr;
  return part(operand, sample);
}

inline void set_buffers(SolverStep& step, const SolverStepRows& all, int64_t sample) {
  const double* slot = all.table[all.rows[sample]].slot;
  const auto buffer = [&](int k) { return buffer_part(all, slot[k], sample); };
  step.x = buffer(kSlotX), step.base = buffer(kSlotBase);
  for (int k = 0; k < kMaxHistory - 1; ++k) step.history[k] = buffer(kSlotHistory + k);
  step.out_x = buffer(kSlotOutX), step.out_base = buffer(kSlotOutBase), step.out_d = buffer(kSlotOutD);
}

inline void set_outputs(SolverStep& step, const SolverStepRows& all, int64_t sample) {
  step.m = part(all.m, sample), step.m_uncond = part(all.m_uncond, sample), step.state = part(all.state, sample);
  for (int k = 0; k < kMaxOthers; ++k) step.others[k] = part(all.others[k], sample);
  step.out_state = part(all.out_state, sample), step.out_input = part(all.out_input, sample);
  step.copies = all.copies;
  step.out_input.stride[0] *= all.size[0];  // from copy to copy
}

// Guidance that is NaN is none.
inline void set_numbers(SolverStep& step, const SolverStepRows& all, int64_t sample) {
  if (all.guidance) step.row.guidance = all.guidance[sample];
  if (step.row.guidance != step.row.guidance && !all.weights) step.m_uncond.data = nullptr;
  if (all.threshold) step.threshold = all.threshold + sample;
  if (all.seeds) step.seeds = all.seeds + sample;
  if (all.weights) step.weights = all.weights + sample * all.sets * kColumns, step.sets = all.sets;
}

// The sample's row is in the table.
inline SolverStep sample_step(const SolverStepRows& all, int64_t sample) {
  SolverStep step;
  step.row = all.table[all.rows[sample]].row;
  step.dims = all.dims;
  std::copy(all.size, all.size + kMaxDims, step.size);
  step.size[0] = 1;
  set_buffers(step, all, sample);
  set_outputs(step, all, sample);
  set_numbers(step, all, sample);
  return step;
}

}  // namespace fastdiff
