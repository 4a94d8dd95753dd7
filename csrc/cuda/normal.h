// Standard normals from Philox words by Box-Muller, as fastdiff/ops/philox.py defines them.
#pragma once

#include <cmath>

#include "../philox.h"
#include "inline.h"

namespace fastdiff::cuda {

template <class T>
struct Pair {
  T first, second;
};

// cos and sin of 2 pi s 2^-32. The nearest quarter turn comes off exactly, in integers; the rest is at most pi / 4.
template <class T>
FASTDIFF_INLINE Pair<T> cos_sin(uint32_t s) {
  constexpr int terms = sizeof(T) == 8 ? 9 : 5;
  constexpr double radians = 6.283185307179586476925 / 4294967296.0;
  const uint32_t quarter = (s + (1u << 29)) >> 30;
  const T angle = static_cast<T>(static_cast<int32_t>(s - (quarter << 30))) * static_cast<T>(radians);
  const T square = angle * angle;
  T cosine = 1, sine = 1;
#pragma unroll
  for (int k = terms; k > 0; --k) {
    cosine = 1 - cosine * square * static_cast<T>(1.0 / (2 * k * (2 * k - 1)));
    sine = 1 - sine * square * static_cast<T>(1.0 / (2 * k * (2 * k + 1)));
  }
  sine *= angle;
  const T first = quarter & 1 ? sine : cosine, second = quarter & 1 ? cosine : sine;
  return {(quarter + 1) & 2 ? -first : first, quarter & 2 ? -second : second};
}

template <class T>
FASTDIFF_INLINE Pair<T> box_muller(uint32_t r, uint32_t s) {
  const T radius = std::sqrt(T(-2) * std::log(static_cast<T>(radius_uniform(r))));
  const Pair<T> turn = cos_sin<T>(s);
  return {radius * turn.first, radius * turn.second};
}

// The normals of the W elements that start at `element`; W is 1 or a multiple of 4 that divides `element`.
template <class T, int W>
FASTDIFF_INLINE void normals(uint64_t seed, uint32_t noise, uint64_t element, T (&z)[W]) {
  if constexpr (W == 1) {
    const Words w = philox(seed, element / 4, noise);
    const Pair<T> pair = element & 2 ? box_muller<T>(w.r[2], w.r[3]) : box_muller<T>(w.r[0], w.r[1]);
    z[0] = element & 1 ? pair.second : pair.first;
  } else {
#pragma unroll
    for (int i = 0; i < W; i += 4) {
      const Words w = philox(seed, (element + i) / 4, noise);
      const Pair<T> low = box_muller<T>(w.r[0], w.r[1]), high = box_muller<T>(w.r[2], w.r[3]);
      z[i] = low.first, z[i + 1] = low.second, z[i + 2] = high.first, z[i + 3] = high.second;
    }
  }
}

}  // namespace fastdiff::cuda
