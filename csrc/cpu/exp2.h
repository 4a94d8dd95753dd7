// 2^x in vectors. Internal linkage: see kernels.h.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

// 2^x for x <= 0, to 2e-7 of itself; 0 below 2^-127, NaN stays NaN. x = n + f with |f| <= 1/2, and a minimax polynomial
// for 2^f.
inline Floats exp2_of_negative(Floats x) {
#ifdef __AVX512F__
  const Floats n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = x - n;
#else
  x = max(broadcast(-127.0f), x);
  const Floats shifted = x + 0x1.8p23f, f = x - (shifted - 0x1.8p23f);  // n in the lowest bits
#endif
  const Floats power = horner(f, broadcast(1.3276472455e-3f), 9.6755409613e-3f, 5.5507130921e-2f, 2.4022120237e-1f,
                              6.9314694405e-1f, 1.0f);
#ifdef __AVX512F__
  return _mm512_scalef_ps(power, n);
#else
  return power * bit_cast<Floats>((bit_cast<Ints>(shifted) << 23) + 0x3f800000);
#endif
}

}  // namespace
}  // namespace fastdiff::cpu
