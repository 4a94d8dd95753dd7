// The sum of a vector's lanes, in double. Internal linkage: see kernels.h.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

typedef double Doubles __attribute__((vector_size(2 * kVectorBytes)));  // as many lanes as Floats

inline double sum_of(const Doubles& all) {
  double sum[4] = {};
  for (int i = 0; i < kLanes; i += 4) {
    for (int u = 0; u < 4; ++u) sum[u] += all[i + u];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline double sum_of(Floats v) { return sum_of(__builtin_convertvector(v, Doubles)); }

}  // namespace
}  // namespace fastdiff::cpu
