// solver_step with a row for each sample: what the kernel is given, and a sample's step made of its record. This also
// compiles as plain C++.
#pragma once

#include <algorithm>

#include "../solver_step_rows.h"
#include "solver_step_launch.h"

namespace fastdiff::cuda {

// Where samples find their records, and records their buffers.
struct Lookup {
  const Record* table;
  const int64_t* rows;
  int64_t records;
  int buffers;
  void* buffer[kMaxBuffers];

  FASTDIFF_INLINE void* find(double number) const {
    return number >= 0 && number < buffers ? buffer[static_cast<int>(number)] : nullptr;
  }

  // The sample's record, or null where it does not move.
  FASTDIFF_INLINE const Record* record(int64_t sample) const {
    const int64_t row = rows[sample];
    return row >= 0 && row < records ? table + row : nullptr;
  }
};

// The step of a row that reads and writes everything: of a sample's own only the numbers and the addresses differ.
template <class T>
struct RowsStep : Step<T> {
  using Own = Step<T>;
  Lookup lookup;
};

template <class T>
struct WeightedRowsStep : WeightedStep<T> {
  using Own = WeightedStep<T>;
  Lookup lookup;
};

// Which of the model's outputs and x the sample's sums read.
template <class T>
FASTDIFF_INLINE void set_outputs(Step<T>& own, const RowsStep<T>& all, void* x, bool guided) {
  own.x.data = reads_x(own) ? x : nullptr;
  own.m.data = own.p_m != 0 ? all.m.data : nullptr;
  own.m_uncond.data = own.p_m != 0 && guided ? all.m_uncond.data : nullptr;
}

template <class T>
FASTDIFF_INLINE void set_outputs(WeightedStep<T>& own, const WeightedRowsStep<T>& all, void* x, bool) {
  const bool sums = own.p_m != 0 || all.out_state.data != nullptr;
  own.x.data = sums || reads_x(own) ? x : nullptr;
  own.m.data = sums ? all.m.data : nullptr, own.m_uncond.data = sums ? all.m_uncond.data : nullptr;
  own.state.data = sums ? all.state.data : nullptr;
  for (int k = 0; k < kMaxOthers; ++k) own.others[k].data = sums ? all.others[k].data : nullptr;
}

// False where the record asks for buffers that are not there.
template <class T>
FASTDIFF_INLINE bool set_term(Step<T>& own, const Lookup& lookup, double number, Weights<T> weight) {
  if (!counts(weight)) return true;
  Term<T>& term = own.term[own.terms++];
  term.value.data = lookup.find(number), term.weight = weight;
  return term.value.data != nullptr;
}

// own: a copy of `all`, or what the last sample left of one, becomes the step of this sample.
template <template <class> class All, class T>
FASTDIFF_INLINE bool take_record(typename All<T>::Own& own, const All<T>& all, const Record& record, int64_t sample) {
  const Lookup& lookup = all.lookup;
  const Row& row = record.row;
  own.out_base.data = lookup.find(record.slot[kSlotOutBase]);
  const bool writes_base = own.out_base.data != nullptr;
  set_row(own, row, writes_base);
  bool found = set_term(own, lookup, record.slot[kSlotBase], weights<T>(row.a_base, row.b_base, writes_base));
  for (int k = 1; k < kMaxHistory; ++k) {
    const Weights<T> weight = weights<T>(row.A[k], row.B[k], writes_base);
    found = set_term(own, lookup, record.slot[kSlotHistory + k - 1], weight) && found;
  }
  const double guidance = all.guidances ? all.guidances[sample] : row.guidance;
  void* x = lookup.find(record.slot[kSlotX]);
  set_outputs(own, all, x, guidance == guidance);
  own.out_x.data = lookup.find(record.slot[kSlotOutX]), own.out_d.data = lookup.find(record.slot[kSlotOutD]);
  return found && own.out_x.data != nullptr && (x != nullptr || !reads_x(own));
}

// A SolverStep of which everything is read and written, where it is given at all.
inline SolverStep everything(const SolverStepRows& rows) {
  SolverStep step;
  step.row = {};
  step.row.p_x = step.row.p_m = step.row.a_base = 1;
  std::fill(step.row.A, step.row.A + kMaxHistory, 1.0);
  step.dims = rows.dims;
  std::copy(rows.size, rows.size + rows.dims, step.size);
  step.x = step.base = step.out_x = step.out_base = step.out_d = rows.layout;
  for (Operand& past : step.history) past = rows.layout;
  step.m = rows.m, step.m_uncond = rows.m_uncond, step.state = rows.state, step.out_state = rows.out_state;
  std::copy(rows.others, rows.others + kMaxOthers, step.others);
  step.out_input = rows.out_input, step.copies = rows.copies;
  step.guidance = rows.guidance, step.threshold = rows.threshold, step.seeds = rows.seeds;
  step.weights = rows.weights, step.sets = rows.sets;
  return step;
}

inline Lookup lookup(const SolverStepRows& rows) {
  Lookup found{rows.table, rows.rows, rows.records, rows.buffers, {}};
  std::copy(rows.buffer, rows.buffer + rows.buffers, found.buffer);
  return found;
}

template <class S>
bool buffers_fit(const S& s, int width) {
  Operand each = s.x;
  for (int k = 0; k < s.lookup.buffers; ++k) {
    each.data = s.lookup.buffer[k];
    if (!fits(s, each, width)) return false;
  }
  return true;
}

template <class T>
bool fits(const RowsStep<T>& s, int width) {
  return fits(static_cast<const Step<T>&>(s), width) && buffers_fit(s, width);
}

template <class T>
bool fits(const WeightedRowsStep<T>& s, int width) {
  return fits(static_cast<const WeightedStep<T>&>(s), width) && buffers_fit(s, width);
}

template <class T, class Launch>
const char* prepare_rows(const SolverStepRows& rows, const SolverStep& step, const Launch& launch) {
  if (rows.weights) {
    WeightedRowsStep<T> s{weighted_argument<T>(step), lookup(rows)};
    return launch_step<T>(s, launch);
  }
  RowsStep<T> s{kernel_argument<T>(step), lookup(rows)};
  return launch_step<T>(s, launch);
}

// As `prepare` for one row: launch.run<T, W>(step, grid) gets a RowsStep or a WeightedRowsStep.
template <class Launch>
const char* prepare_rows(const SolverStepRows& rows, const Launch& launch) {
  const SolverStep step = everything(rows);
  return needs_double(step) ? prepare_rows<double>(rows, step, launch) : prepare_rows<float>(rows, step, launch);
}

}  // namespace fastdiff::cuda
