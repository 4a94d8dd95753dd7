// The contract of solver_step: one coefficient row applied in one pass over memory. The mathematics is written out in
// fastdiff/plans/table.py and fastdiff/ops/reference.py; every implementation reads this struct.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastdiff {

constexpr int kMaxHistory = 8;  // H_0 .. H_7
constexpr int kMaxNoise = 2;
constexpr int kMaxOthers = 2;  // outputs beyond m and m_uncond
constexpr int kMaxSets = 3;
constexpr int kMaxDims = 6;  // the batch and five more, after neighbouring dimensions were merged

// One record of a plan's table, the same bytes as the NumPy dtype ROW.
struct Row {
  double p_x, p_m;
  double clamp, guidance, c_in;
  double a_base, a_x, A[kMaxHistory];
  double b_base, b_x, B[kMaxHistory];
  double xi_a[kMaxNoise], xi_b[kMaxNoise];
  double noise[kMaxNoise];  // noise index, a whole number in [0, 2^32)
};

// The columns of a set of weights: what each counts for, the outputs but UNCOND less m_uncond.
enum WeightColumn { kWeightM, kWeightUncond, kWeightSecond, kWeightThird, kWeightX, kWeightState, kColumns };

// A strided view; strides count elements; data is null where the operand is absent.
struct Operand {
  void* data = nullptr;
  DType dtype;
  int64_t stride[kMaxDims];
};

struct SolverStep {
  Row row;
  int32_t dims;            // how many of size[] are used, at least 1
  int64_t size[kMaxDims];  // size[0] is the batch; the rest in the logical (contiguous) order that noise is counted in
  Operand x, base, m, m_uncond;
  Operand history[kMaxHistory - 1];  // H_1, H_2, ...
  Operand out_x, out_base, out_d, out_input;
  int32_t copies = 0;  // c_in x' is written this many times over, `batch` samples apart
  const double* guidance = nullptr;   // [batch], or null: row.guidance
  const double* threshold = nullptr;  // [batch], or null: D is clamped to +-threshold and divided by it
  const int64_t* seeds = nullptr;     // [batch], or null where the row draws no noise
  // With weights: m may be absent, out_state asks for three sets, and the guidance does not count.
  Operand others[kMaxOthers], state, out_state;
  const double* weights = nullptr;  // [batch, sets, kColumns], or null: guidance
  int32_t sets = 0;
};

// static: each instruction set's object keeps its own copy.
static inline bool reads_history(const Row& row, int k) { return row.A[k] != 0 || row.B[k] != 0; }
static inline bool reads_noise(const Row& row, int j) { return row.xi_a[j] != 0 || row.xi_b[j] != 0; }

static inline int64_t elements_per_sample(const SolverStep& step) {
  int64_t count = 1;
  for (int d = 1; d < step.dims; ++d) count *= step.size[d];
  return count;
}

}  // namespace fastdiff
