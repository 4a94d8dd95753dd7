// Count, mean and sum of squared deviations, exact enough to merge in any number (Chan, Golub & LeVeque 1979).
#pragma once

namespace fastdiff::cpu {

struct Moments {
  double count = 0, mean = 0, m2 = 0;
};

// From `count` deviations from a pivot: their sum and their sum of squares. The nearer the pivot is to the mean, the
// fewer digits the difference loses.
static inline Moments moments_about(double pivot, double count, double sum, double squares) {
  return {count, pivot + sum / count, squares - sum * sum / count};
}

static inline void merge(Moments& into, const Moments& other) {
  if (other.count == 0) return;
  const double total = into.count + other.count, delta = other.mean - into.mean;
  into.mean += delta * (other.count / total);
  into.m2 += other.m2 + delta * delta * (into.count * other.count / total);
  into.count = total;
}

}  // namespace fastdiff::cpu
