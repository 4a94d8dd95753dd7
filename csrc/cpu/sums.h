// The sum of a vector's lanes, in double. Internal linkage: see kernels.h.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

typedef double Doubles __attribute__((vector_size(kVectorBytes)));

inline double sum_of(Doubles v) {
  double sum = 0;
  for (int i = 0; i < kLanes / 2; ++i) sum += v[i];
  return sum;
}

inline double sum_of(Floats v) {
  typedef double All __attribute__((vector_size(2 * kVectorBytes)));
  const All all = __builtin_convertvector(v, All);
  double sum[4] = {};
  for (int i = 0; i < kLanes; i += 4) {
    for (int u = 0; u < 4; ++u) sum[u] += all[i + u];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace
}  // namespace fastdiff::cpu
