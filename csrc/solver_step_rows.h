// The contract of solver_step_rows: each sample at its own row of one table, which also says what buffers it uses.
// The mathematics is solver_step's; fastdiff/ops/row_table.py says what a record is.
#pragma once

#include "solver_step.h"

namespace fastdiff {

constexpr int kMaxBuffers = 64;

// The numbers of the buffers that a row reads and writes: x, base, H_1 .. H_7, x', base', D. -1: absent.
enum RecordSlot {
  kSlotX, kSlotBase, kSlotHistory, kSlotOutX = kSlotHistory + kMaxHistory - 1, kSlotOutBase, kSlotOutD, kRecordSlots
};

struct Record {
  Row row;
  double slot[kRecordSlots];
};

struct SolverStepRows {
  const Record* table;
  const int64_t* rows;  // [batch]; the sample of a negative one is left alone
  int64_t records;      // in the table
  int32_t dims;
  int64_t size[kMaxDims];  // as in SolverStep
  int32_t buffers = 0;
  void* buffer[kMaxBuffers];
  Operand layout;  // of every buffer: its dtype and strides; the data is the first one's
  Operand m, m_uncond, out_input;
  int32_t copies = 0;
  const double* guidance = nullptr;  // [batch], NaN where a sample has none; or null: its row's
  const double* threshold = nullptr;
  const int64_t* seeds = nullptr;
  Operand others[kMaxOthers], state, out_state;
  const double* weights = nullptr;
  int32_t sets = 0;
};

static inline bool is_buffer(const SolverStepRows& step, double number) { return number >= 0 && number < step.buffers; }

static inline bool draws_noise(const Row& row) { return reads_noise(row, 0) || reads_noise(row, 1); }

static inline int64_t elements_per_sample(const SolverStepRows& step) {
  int64_t count = 1;
  for (int d = 1; d < step.dims; ++d) count *= step.size[d];
  return count;
}

}  // namespace fastdiff
