// Count, mean and sum of squared deviations, exact enough to merge in any number (Chan, Golub & LeVeque 1979).
#pragma once

namespace fastdiff::cpu {

struct Moments {
  double count = 0, mean = 0, m2 = 0;

  // From `count` deviations from a pivot: their sum and their sum of squares.
  static Moments around(double pivot, double count, double sum, double squares) {
    return {count, pivot + sum / count, squares - sum * sum / count};
  }

  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    m2 += other.m2 + delta * delta * (count * other.count / total);
    count = total;
  }
};

}  // namespace fastdiff::cpu
