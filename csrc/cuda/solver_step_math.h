// What one thread of solver_step does: all loads first, then the noise, which needs no memory, then the sums, so that a
// thread waits for memory once. This also compiles as plain C++, which is how it is tested without a GPU.
#pragma once

#include "normal.h"
#include "packet.h"
#include "solver_step_args.h"

namespace fastdiff::cuda {

// A weight of zero takes nothing, not even from an infinity.
template <class T, int W>
FASTDIFF_INLINE void add(T (&sum)[W], T weight, const T (&value)[W]) {
  if (weight == 0) return;
  for (int i = 0; i < W; ++i) sum[i] += weight * value[i];
}

// NaN stays NaN.
template <class T, int W>
FASTDIFF_INLINE void clamp(T (&value)[W], T limit) {
  for (int i = 0; i < W; ++i) {
    value[i] = value[i] > limit ? limit : value[i];
    value[i] = value[i] < -limit ? -limit : value[i];
  }
}

template <class T, int W>
struct Sums {
  T a[W] = {}, b[W] = {};

  FASTDIFF_INLINE void accumulate(Weights<T> weight, const T (&value)[W]) {
    add(a, weight.a, value);
    add(b, weight.b, value);
  }
};

template <class T, int W>
FASTDIFF_INLINE void write(const Step<T>& s, const Place<W>& place, const Sums<T, W>& sums, const T (&d)[W]) {
  store(s.out_x, place(s.out_x), sums.a);
  if (s.out_base.data) store(s.out_base, place(s.out_base), sums.b);
  if (s.out_d.data) store(s.out_d, place(s.out_d), d);
  if (!s.out_input.data) return;
  T input[W];
  for (int i = 0; i < W; ++i) input[i] = s.c_in * sums.a[i];
  const int64_t offset = place(s.out_input), batch = s.size[0] * s.out_input.stride[0];
#pragma unroll 1
  for (int copy = 0; copy < s.copies; ++copy) store(s.out_input, offset + copy * batch, input);
}

// The operands of one thread on their way from memory. More than kAhead terms are rare, and would cost registers.
constexpr int kAhead = 4;

template <class T, int W>
struct Loads {
  Packet<T, W> x{}, m{}, uncond, term[kAhead];

  FASTDIFF_INLINE Loads(const Step<T>& s, const Place<W>& place) {
    if (s.x.data) load(x, s.x, place(s.x));
    if (s.m.data) load(m, s.m, place(s.m), true);
    if (s.m_uncond.data) load(uncond, s.m_uncond, place(s.m_uncond), true);
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      if (t == s.terms) break;
      load(term[t], s.term[t].value, place(s.term[t].value));
    }
  }
};

template <class T, int W>
FASTDIFF_INLINE void add_noise(Sums<T, W>& sums, const Step<T>& s, int64_t seed, int64_t element) {
#pragma unroll
  for (int j = 0; j < kMaxNoise; ++j) {
    if (j == s.draws) break;
    T xi[W];
    normals(static_cast<uint64_t>(seed), s.draw[j].noise, static_cast<uint64_t>(element), xi);
    sums.accumulate(s.draw[j].weight, xi);
  }
}

template <class T, int W>
FASTDIFF_INLINE void add_terms(Sums<T, W>& sums, const Step<T>& s, const Place<W>& place, const Loads<T, W>& loads) {
  T value[W];
#pragma unroll
  for (int t = 0; t < kAhead; ++t) {
    if (t == s.terms) return;
    unpack(loads.term[t], s.term[t].value.dtype, value);
    sums.accumulate(s.term[t].weight, value);
  }
#pragma unroll 1
  for (int t = kAhead; t < s.terms; ++t) {
    Packet<T, W> packet;
    load(packet, s.term[t].value, place(s.term[t].value));
    unpack(packet, s.term[t].value.dtype, value);
    sums.accumulate(s.term[t].weight, value);
  }
}

// The model's output, guided where there are two.
template <class T, int W>
FASTDIFF_INLINE void unpack_output(T (&m)[W], const Step<T>& s, const PerSample& own, const Loads<T, W>& loads) {
  unpack(loads.m, s.m.dtype, m);
  if (!s.m_uncond.data) return;
  T uncond[W];
  unpack(loads.uncond, s.m_uncond.dtype, uncond);
  const T g = s.guidances ? static_cast<T>(own.guidance) : s.guidance;
  for (int i = 0; i < W; ++i) m[i] = uncond[i] + g * (m[i] - uncond[i]);
}

// D, the model's output in the form the solver works with.
template <class T, int W>
FASTDIFF_INLINE void convert(T (&d)[W], const T (&x)[W], const T (&m)[W], const Step<T>& s, const PerSample& own) {
  for (int i = 0; i < W; ++i) d[i] = 0;
  add(d, s.p_x, x);
  add(d, s.p_m, m);
  clamp(d, s.clamp);
  if (!s.thresholds) return;
  const T threshold = static_cast<T>(own.threshold);
  clamp(d, threshold);
  for (int i = 0; i < W; ++i) d[i] /= threshold;
}

// The W elements of `sample` that start at `element`.
template <class T, int W>
FASTDIFF_INLINE void solver_step_elements(const Step<T>& s, int64_t sample, int64_t element) {
  const Place<W> place(s, sample, element);
  const Loads<T, W> loads(s, place);
  const PerSample own(s, sample);
  Sums<T, W> sums;
  add_noise(sums, s, own.seed, element);  // needs no memory: the loads are still on their way
  T x[W], m[W], d[W];
  unpack(loads.x, s.x.dtype, x);
  unpack_output(m, s, own, loads);
  convert(d, x, m, s, own);
  sums.accumulate(s.x_weight, x);
  sums.accumulate(s.d_weight, d);
  add_terms(sums, s, place, loads);
  write(s, place, sums, d);
}

// A block takes the same stretch of elements in every grid_y-th sample.
template <class T, int W, template <class> class S>
FASTDIFF_INLINE void solver_step_thread(const S<T>& s, int64_t block_x, int64_t block_y, int64_t grid_y,
                                        int thread) {
  const int64_t element = (block_x * kThreads<W> + thread) * W;
  if (element >= s.elements) return;
  for (int64_t sample = block_y; sample < s.size[0]; sample += grid_y) solver_step_elements<T, W>(s, sample, element);
}

}  // namespace fastdiff::cuda
