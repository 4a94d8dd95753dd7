// A row's numbers in the kernel's argument. The host does this for one row of all samples, the device for each sample's.
#pragma once

#include <cmath>

#include "solver_step_args.h"

namespace fastdiff::cuda {

template <class T>
FASTDIFF_INLINE bool counts(Weights<T> w) {
  return w.a != 0 || w.b != 0;
}

// What one operand adds; the second line counts only where base' is asked for.
template <class T>
FASTDIFF_INLINE Weights<T> weights(double a, double b, bool writes_base) {
  return {static_cast<T>(a), writes_base ? static_cast<T>(b) : T(0)};
}

template <class T>
FASTDIFF_INLINE bool reads_x(const Step<T>& s) {
  return s.p_x != 0 || counts(s.x_weight);
}

// All but the terms: `add_term` follows for base, H_1, H_2, ...
template <class T>
FASTDIFF_INLINE void set_row(Step<T>& s, const Row& row, bool writes_base) {
  const bool bounded = row.clamp - row.clamp == 0;
  s.p_x = static_cast<T>(row.p_x), s.p_m = static_cast<T>(row.p_m);
  s.clamp = bounded ? static_cast<T>(row.clamp) : static_cast<T>(HUGE_VAL);
  s.guidance = static_cast<T>(row.guidance), s.c_in = static_cast<T>(row.c_in);
  s.x_weight = weights<T>(row.a_x, row.b_x, writes_base), s.d_weight = weights<T>(row.A[0], row.B[0], writes_base);
  s.terms = s.draws = 0;
  for (int j = 0; j < kMaxNoise; ++j) {
    const Weights<T> w = weights<T>(row.xi_a[j], row.xi_b[j], writes_base);
    if (counts(w)) s.draw[s.draws++] = {static_cast<uint32_t>(row.noise[j]), w};
  }
}

template <class T>
FASTDIFF_INLINE void add_term(Step<T>& s, const Operand& value, Weights<T> weight) {
  if (counts(weight)) s.term[s.terms++] = {value, weight};
}

}  // namespace fastdiff::cuda
