// y of solver_step: a block's weighted sum of model outputs, x and the state. Internal linkage: see kernels.h.
#pragma once

#include "solver_step_sums.h"

namespace fastdiff::cpu {
namespace {

constexpr int kMaxDifferences = 1 + kMaxOthers;         // of m and the others from m_uncond
constexpr int kMaxSummands = 2 + kMaxDifferences;       // x, the state, and outputs where there is no m_uncond

// P operands and D differences from `uncond`. u + g (m - u) is rounded as guidance is.
template <class T, int P, int D>
void sum_differences(const T* const* in, const T* weights, const T* const* outputs, const T* output_weights,
                     const T* uncond, int64_t n, T* __restrict out) {
  const T *from[P + 1], *output[D];
  T weight[P + 1], output_weight[D];
  for (int k = 0; k < P; ++k) from[k] = in[k], weight[k] = weights[k];
  for (int k = 0; k < D; ++k) output[k] = outputs[k], output_weight[k] = output_weights[k];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T total = P > 0 ? weight[0] * from[0][i] : T(0);
#pragma GCC unroll 3
    for (int k = 1; k < P; ++k) total = fma(weight[k], from[k][i], total);
#pragma GCC unroll 3
    for (int k = 0; k < D; ++k) total = fma(output_weight[k], output[k][i] - uncond[i], total);
    out[i] = total;
  }
}

// What has no weight, and what is absent, takes no part.
template <class T>
class WeightedSum {
 public:
  explicit WeightedSum(const T* uncond) : uncond_(uncond) {}

  void add(double weight, const T* value) {
    if (weight == 0 || value == nullptr) return;
    in_[plain_] = value, weight_[plain_++] = static_cast<T>(weight);
  }

  void add_difference(double weight, const T* output) {
    if (uncond_ == nullptr) return add(weight, output);
    if (weight == 0 || output == nullptr) return;
    output_[differences_] = output, output_weight_[differences_++] = static_cast<T>(weight);
  }

  void run(int64_t n, T* out) const {
    switch (differences_) {
      case 0: return sum_terms<T>(plain_, in_, weight_, n, out);
      case 1: return run<1>(n, out);
      case 2: return run<2>(n, out);
      case 3: return run<3>(n, out);
    }
  }

 private:
  template <int D>
  void run(int64_t n, T* out) const {
    switch (plain_) {
      case 0: return run<0, D>(n, out);
      case 1: return run<1, D>(n, out);
      case 2: return run<2, D>(n, out);
      case 3: return run<3, D>(n, out);
    }
  }

  template <int P, int D>
  void run(int64_t n, T* out) const {
    sum_differences<T, P, D>(in_, weight_, output_, output_weight_, uncond_, n, out);
  }

  const T* const uncond_;
  int plain_ = 0, differences_ = 0;
  const T *in_[kMaxSummands], *output_[kMaxDifferences];
  T weight_[kMaxSummands], output_weight_[kMaxDifferences];
};

}  // namespace
}  // namespace fastdiff::cpu
