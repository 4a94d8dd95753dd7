// kLanes vectors as the rows of a square matrix, transposed. Internal linkage: see kernels.h.
#pragma once

#include <utility>

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

// Lane j of the result is lane `from` of a, or of b where from >= kLanes.
template <int... kFrom>
inline Floats shuffle(Floats a, Floats b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, kFrom...);
#else
  return __builtin_shuffle(a, b, Ints{kFrom...});
#endif
}

template <int kHalf, int... kLane>
inline void exchange(Floats& a, Floats& b, std::integer_sequence<int, kLane...>) {
  const Floats low = shuffle<(kLane & kHalf ? kLanes + kLane - kHalf : kLane)...>(a, b);
  b = shuffle<(kLane & kHalf ? kLanes + kLane : kLane + kHalf)...>(a, b);
  a = low;
}

// Exchanges the off-diagonal blocks of every 2 kHalf x 2 kHalf block, then the same within the blocks.
template <int kHalf = kLanes / 2>
inline void transpose(Floats (&m)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (!(i & kHalf)) exchange<kHalf>(m[i], m[i + kHalf], std::make_integer_sequence<int, kLanes>());
  }
  if constexpr (kHalf > 1) transpose<kHalf / 2>(m);
}

}  // namespace
}  // namespace fastdiff::cpu
