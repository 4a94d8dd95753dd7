// The token that a row's random number falls to. Internal linkage: see kernels.h.
#pragma once

#include "token_sums.h"

namespace fastdiff::cpu {
namespace {

// The first of `count` weights with which their sum exceeds `target`, from which the sum before it is taken; the last
// positive one where rounding leaves none.
inline int64_t reach(const float* weights, int64_t count, double& target) {
  int64_t last = 0;
  double last_target = target;
  for (int64_t i = 0; i < count; ++i) {
    const double w = static_cast<double>(weights[i]);
    if (w > target) return i;
    if (w > 0) last = i, last_target = target;
    target -= w;
  }
  target = last_target;
  return last;
}

inline double sum_of(const float* weights, int64_t padded) {
  double sum = 0;
  for (int64_t i = 0; i < padded; i += kLanes) sum += sum_of(load(weights + i));
  return sum;
}

// The stretch's own sum takes the place of its share, so that each token has its mass. weigh(stretch, s, weights).
template <class S, class Weigh>
int64_t draw(TokenReader<S>& reader, int64_t stretches, const float* shares, const Law& law, double u, const Weigh& weigh) {
  double target = u * law.sum;
  const int64_t s = reach(shares, stretches, target);
  const Stretch stretch = reader.read(s * kStretch);
  alignas(64) float weights[kStretch];
  weigh(stretch, s, weights);
  target *= sum_of(weights, stretch.padded) / static_cast<double>(shares[s]);
  return stretch.begin + reach(weights, stretch.count, target);
}

}  // namespace
}  // namespace fastdiff::cpu
