// SiLU of several vectors at once, step by step in all of them: one after the other, their long chains of dependent
// operations would fill the processor's window. Internal linkage: see convert.h.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

constexpr float kLog2e = 1.442695041f;
constexpr float kMostExponent = 126;  // 2^126 still has a reciprocal

// z = -h log2(e) as whole number n and fraction f in [-1/2, 1/2].
inline void split(Floats h, Floats& n, Floats& f) {
#if defined(__AVX512F__)
  const Floats z = _mm512_min_ps(h * -kLog2e, spread(kMostExponent));  // scalef takes any n below
  n = _mm512_roundscale_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = z - n;
#else
  const Floats least = spread(-kMostExponent), z = larger(-larger(h * kLog2e, least), least);  // NaN becomes a number
  n = z + 0x1.8p23f, f = z - (n - 0x1.8p23f);  // n in the lowest bits
#endif
}

inline Floats scaled(Floats power, Floats n) {
#if defined(__AVX512F__)
  return _mm512_scalef_ps(power, n);
#else
  return power * bits<Floats>((bits<Ints>(n) << 23) + 0x3f800000);
#endif
}

// 1 / v: an estimate and, if `fine`, a Newton step, which together take a third of a division.
template <bool kFine>
inline Floats reciprocal(Floats v) {
#if defined(__AVX512F__)
  const Floats r = _mm512_rcp14_ps(v);
  return kFine ? mad(r, mad(-v, r, spread(1.0f)), r) : r;
#elif defined(__AVX2__)
  const Floats r = _mm256_rcp_ps(v);
  return mad(r, mad(-v, r, spread(1.0f)), r);
#else
  return 1.0f / v;
#endif
}

// h / (1 + 2^z). `fine`: to 3e-7 of itself near 0 and of float's rounding elsewhere; otherwise to 7e-5, for results that
// are rounded to half precision. 2^f is a minimax polynomial of degree 5 or 4.
template <bool kFine, int N>
inline void silu(Floats (&h)[N]) {
  Floats n[N], f[N], p[N];
  for (int u = 0; u < N; ++u) split(h[u], n[u], f[u]);
  const auto next = [&](float coefficient) {
    for (int u = 0; u < N; ++u) p[u] = mad(p[u], f[u], spread(coefficient));
  };
  if constexpr (kFine) {
    for (int u = 0; u < N; ++u) p[u] = spread(1.3277100340e-3f);
    next(9.6756764686e-3f), next(5.5507117151e-2f), next(2.4022116225e-1f), next(6.9314696797e-1f), next(1.0f);
  } else {
    for (int u = 0; u < N; ++u) p[u] = spread(9.5697050387e-3f);
    next(5.5918199708e-2f), next(2.4024764664e-1f), next(6.9312174421e-1f), next(9.9999923905e-1f);
  }
  for (int u = 0; u < N; ++u) p[u] = scaled(p[u], n[u]) + 1.0f;
  for (int u = 0; u < N; ++u) p[u] = reciprocal<kFine>(p[u]);
  for (int u = 0; u < N; ++u) h[u] *= p[u];
}

}  // namespace
}  // namespace fastdiff::cpu
