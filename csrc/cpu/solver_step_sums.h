// What solver_step does with a block of elements: D from x and the model's output, and weighted sums of what the row
// reads. Internal linkage: see kernels.h.
#pragma once

#include "convert.h"
#include "solver_step.h"

namespace fastdiff::cpu {
namespace {

constexpr int kMaxTerms = 2 + kMaxHistory + kMaxNoise;

// What a block can read or write. D is H_0; Y is the weighted sum that takes the place of M.
enum Slot {
  X, BASE, M, M_UNCOND, H0, XI0 = H0 + kMaxHistory, OUT_X = XI0 + kMaxNoise, OUT_BASE, OUT_INPUT,
  OTHERS, STATE = OTHERS + kMaxOthers, Y, OUT_STATE, kSlots
};

// One of the row's two outputs, a weighted sum of slots. Zero weights are left out: their operands are not read, and an
// infinity in one does no harm. D comes last: its elements are made in the same loop as the sum (convert).
template <class T>
struct LinearCombination {
  int terms = 0;
  int slot[kMaxTerms];
  T weight[kMaxTerms];

  LinearCombination(double base, double x, const double* history, const double* noise) {
    add(BASE, base);
    add(X, x);
    for (int k = 1; k < kMaxHistory; ++k) add(H0 + k, history[k]);
    for (int j = 0; j < kMaxNoise; ++j) add(XI0 + j, noise[j]);
    add(H0, history[0]);
  }

  bool ends_in_d() const { return terms > 0 && slot[terms - 1] == H0; }

  void add(int from, double by) {
    if (by == 0) return;
    slot[terms] = from;
    weight[terms++] = static_cast<T>(by);
  }
};

// The number of terms is a template argument: the sums stay in registers, and memory is passed over once.
template <class T, int N>
void sum_terms(const T* const* in, const T* weights, int64_t n, T* out) {
  const T* from[N + 1];
  T weight[N + 1];
  for (int k = 0; k < N; ++k) from[k] = in[k], weight[k] = weights[k];
#pragma GCC ivdep  // `out` may be one of them
  for (int64_t i = 0; i < n; ++i) {
    T total = N > 0 ? weight[0] * from[0][i] : T(0);
#pragma GCC unroll 16
    for (int k = 1; k < N; ++k) total = fma(weight[k], from[k][i], total);
    out[i] = total;
  }
}

template <class T, int N = 0>
void sum_terms(int terms, const T* const* in, const T* weights, int64_t n, T* out) {
  if (terms == N) return sum_terms<T, N>(in, weights, n, out);
  if constexpr (N < kMaxTerms) sum_terms<T, N + 1>(terms, in, weights, n, out);
}

// How D is made for one sample. Dividing by the threshold is folded into the weights.
template <class T>
struct Conversion {
  T p_x, p_m, guidance, bound;

  Conversion(const SolverStep& s, int64_t sample) {
    const double scale = s.threshold ? 1 / s.threshold[sample] : 1;
    const double clamp = s.row.clamp * scale;
    p_x = static_cast<T>(s.row.p_x * scale);
    p_m = static_cast<T>(s.row.p_m * scale);
    guidance = static_cast<T>(s.guidance ? s.guidance[sample] : s.row.guidance);
    bound = static_cast<T>(s.threshold && !(clamp < 1) ? 1 : clamp);
  }

  T operator()(T linear) const {  // NaN fails both comparisons and stays
    linear = linear > bound ? bound : linear;
    return linear < -bound ? -bound : linear;
  }
};

template <class T>
struct Block {
  Conversion<T> to_d;
  const T *x, *m, *m_uncond;
  const T* const* in;  // the operands of the sum before D
  const T* weight;
  int64_t n;
  T *d, *sum;
};

// D, which is kept where block.d is given, and in the same loop, where N >= 0, the sum of N operands and D.
template <class T, int N, bool kX, bool kGuided, bool kKept>
void convert(const Block<T>& block) {
  const Conversion<T> to_d = block.to_d;
  const T *x = block.x, *m = block.m, *m_uncond = block.m_uncond, *in[kMaxTerms];
  T weight[kMaxTerms], *d = block.d, *sum = block.sum;
  for (int k = 0; k < N; ++k) in[k] = block.in[k];
  for (int k = 0; k <= N; ++k) weight[k] = block.weight[k];
#pragma GCC ivdep  // an output overlaps no input, or is one, element by element
  for (int64_t i = 0; i < block.n; ++i) {
    const T model = kGuided ? fma(to_d.guidance, m[i] - m_uncond[i], m_uncond[i]) : m[i];
    const T converted = to_d(kX ? fma(to_d.p_x, x[i], to_d.p_m * model) : to_d.p_m * model);
    if constexpr (kKept) d[i] = converted;
    if constexpr (N >= 0) {
      T total = weight[N] * converted;
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) total = fma(weight[k], in[k][i], total);
      sum[i] = total;
    }
  }
}

template <class T, int N, bool kX, bool kGuided>
void convert(const Block<T>& block) {
  block.d ? convert<T, N, kX, kGuided, true>(block) : convert<T, N, kX, kGuided, false>(block);
}

template <class T, int N>
void convert(bool reads_x, bool guided, const Block<T>& block) {
  if (reads_x) {
    guided ? convert<T, N, true, true>(block) : convert<T, N, true, false>(block);
  } else {
    guided ? convert<T, N, false, true>(block) : convert<T, N, false, false>(block);
  }
}

}  // namespace
}  // namespace fastdiff::cpu
