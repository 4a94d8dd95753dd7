// SiLU in vectors. Internal linkage: see convert.h.
#pragma once

#include "exp2.h"

namespace fastdiff::cpu {
namespace {

inline Floats magnitude(Floats v) { return bits<Floats>(bits<Ints>(v) & 0x7fffffff); }

// 1 / v for v in [1, 2], to 1.5e-7 of itself: an estimate and one Newton step, which take a third of a division.
inline Floats reciprocal(Floats v) {
#if defined(__AVX512F__)
  const Floats r = _mm512_rcp14_ps(v);
#elif defined(__AVX2__)
  const Floats r = _mm256_rcp_ps(v);
#else
  return 1.0f / v;
#endif
#if defined(__AVX2__)
  return mad(r, mad(-v, r, spread(1.0f)), r);
#endif
}

// h / (1 + e^-h) = h s(|h|) for h >= 0 and h e^h s(|h|) below, with s = 1 / (1 + e^-|h|). Nothing overflows.
inline Floats silu(Floats h) {
  const Floats e = exp2_of_negative(magnitude(h) * -1.442695041f);
  return (h < 0 ? h * e : h) * reciprocal(e + 1.0f);
}

}  // namespace
}  // namespace fastdiff::cpu
