// solver_step with weights: what one thread does where a weighted sum takes the place of the model's output. This also
// compiles as plain C++.
#pragma once

#include "solver_step_math.h"

namespace fastdiff::cuda {

// A step with weights: whatever its sums read is there.
template <class T>
struct WeightedStep : Step<T> {
  Operand others[kMaxOthers], state, out_state;
  const double* weights;
  int sets;
};

// The same, or a step without weights in a table that has some with: weights is null then.
template <class T>
struct MixedStep : WeightedStep<T> {};

// a b + c rounded once, whichever product the compiler would rather fuse: weights that say guidance give its bits.
FASTDIFF_INLINE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

FASTDIFF_INLINE double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

// The operands of y that a step without weights has not, on their way from memory.
template <class T, int W>
struct MoreLoads {
  Packet<T, W> others[kMaxOthers], state;

  FASTDIFF_INLINE MoreLoads(const WeightedStep<T>& s, const Place<W>& place) {
#pragma unroll
    for (int k = 0; k < kMaxOthers; ++k) {
      if (s.others[k].data) load(others[k], s.others[k], place(s.others[k]), true);
    }
    if (s.state.data) load(state, s.state, place(s.state));
  }
};

// What y is a sum of: outputs less `uncond`, which is 0 where there is none.
template <class T, int W>
struct Summands {
  T x[W], m[W], uncond[W] = {}, others[kMaxOthers][W], state[W];

  FASTDIFF_INLINE Summands(const WeightedStep<T>& s, const Loads<T, W>& loads, const MoreLoads<T, W>& more) {
    unpack(loads.x, s.x.dtype, x);
    if (s.m_uncond.data) unpack(loads.uncond, s.m_uncond.dtype, uncond);
    if (s.m.data) unpack_difference(loads.m, s.m, m);
#pragma unroll
    for (int k = 0; k < kMaxOthers; ++k) {
      if (s.others[k].data) unpack_difference(more.others[k], s.others[k], others[k]);
    }
    if (s.state.data) unpack(more.state, s.state.dtype, state);
  }

 private:
  FASTDIFF_INLINE void unpack_difference(const Packet<T, W>& packet, const Operand& operand, T (&value)[W]) {
    unpack(packet, operand.dtype, value);
    for (int i = 0; i < W; ++i) value[i] -= uncond[i];
  }
};

// A weight of zero takes nothing, not even from an infinity.
template <class T, int W>
FASTDIFF_INLINE void take(T (&y)[W], const Operand& operand, double weight, const T (&value)[W]) {
  const T w = static_cast<T>(weight);
  if (!operand.data || w == 0) return;
  for (int i = 0; i < W; ++i) y[i] = fused(w, value[i], y[i]);
}

// y of one set of the sample's weights.
template <class T, int W>
FASTDIFF_INLINE void weighted_sum(T (&y)[W], const WeightedStep<T>& s, int64_t sample, int set,
                                  const Summands<T, W>& from) {
  const double* weight = s.weights + (sample * s.sets + set) * kColumns;
  for (int i = 0; i < W; ++i) y[i] = 0;
  take(y, s.m_uncond, weight[kWeightUncond], from.uncond);
  take(y, s.x, weight[kWeightX], from.x);
  take(y, s.state, weight[kWeightState], from.state);
  take(y, s.m, weight[kWeightM], from.m);
  take(y, s.others[0], weight[kWeightSecond], from.others[0]);
  take(y, s.others[1], weight[kWeightThird], from.others[1]);
}

template <class T, int W>
FASTDIFF_INLINE void solver_step_elements(const WeightedStep<T>& s, int64_t sample, int64_t element) {
  const Place<W> place(s, sample, element);
  const Loads<T, W> loads(s, place);
  const MoreLoads<T, W> more(s, place);
  const PerSample own(s, sample);
  Sums<T, W> sums;
  add_noise(sums, s, own.seed, element);
  const Summands<T, W> from(s, loads, more);
  T y[W] = {}, d[W];
  if (s.p_m != 0) weighted_sum(y, s, sample, 0, from);
  convert(d, from.x, y, s, own);
  sums.accumulate(s.x_weight, from.x);
  sums.accumulate(s.d_weight, d);
  add_terms(sums, s, place, loads);
  if (s.sets > 1 && s.p_m != 0) {
    weighted_sum(y, s, sample, 1, from);
    convert(d, from.x, y, s, own);
  }
  write(s, place, sums, d);
  if (!s.out_state.data) return;
  weighted_sum(y, s, sample, 2, from);
  store(s.out_state, place(s.out_state), y);
}

template <class T, int W>
FASTDIFF_INLINE void solver_step_elements(const MixedStep<T>& s, int64_t sample, int64_t element) {
  if (s.weights) {
    solver_step_elements<T, W>(static_cast<const WeightedStep<T>&>(s), sample, element);
  } else {
    solver_step_elements<T, W>(static_cast<const Step<T>&>(s), sample, element);
  }
}

}  // namespace fastdiff::cuda
