// SiLU of several vectors at once, step by step in all of them: one after the other, their long chains of dependent
// operations would fill the processor's window. Internal linkage: see kernels.h.
#pragma once

#include <iterator>

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

// 2^z = 2^n 2^f with n a multiple of 2^-kStepBits, whose fraction is looked up: so many powers fit in registers, and
// the polynomial for 2^f is short. It is 1 + f q(f), q's coefficients from the highest power on, minimax in relative
// error: at most 1.1e-7 with kFine, and 6e-5 with kCoarse, for results that are rounded to half precision.
#if defined(__AVX512F__)

constexpr int kStepBits = 5;
constexpr float kFine[] = {2.4022649229e-1f, 6.9315731525e-1f};
constexpr float kCoarse[] = {6.9312006235e-1f};

#elif defined(__AVX2__)

constexpr int kStepBits = 3;
constexpr float kFine[] = {5.5496223271e-2f, 2.4025763571e-1f, 6.9314724207e-1f};
constexpr float kCoarse[] = {2.4022588134e-1f, 6.9330888987e-1f};

#else

constexpr int kStepBits = 0;
constexpr float kFine[] = {1.3264601585e-3f, 9.6715111285e-3f, 5.5507339537e-2f, 2.4022242427e-1f, 6.9314700365e-1f};
constexpr float kCoarse[] = {9.5828529447e-3f, 5.5906426162e-2f, 2.4024099112e-1f, 6.9312417507e-1f};

#endif

constexpr float kShift = 0x1.8p23f / (1 << kStepBits);  // n + kShift has n's last bit in the lowest place

// The bits of 2^(j / 32) less j << 18, which those of n + kShift, shifted by 18, make the bits of 2^n.
alignas(64) constexpr int32_t kPowers[] = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
};

// 2^n from n + kShift.
inline Floats exp2_by_table(Floats shifted) {
  const Ints n = bit_cast<Ints>(shifted);
#if defined(__AVX512F__)
  const __m512i low = _mm512_load_si512(kPowers), high = _mm512_load_si512(kPowers + 16);
  const Ints fraction = bit_cast<Ints>(_mm512_permutex2var_epi32(low, bit_cast<__m512i>(n), high));
#elif defined(__AVX2__)
  const __m256i powers = _mm256_setr_epi32(kPowers[0], kPowers[4], kPowers[8], kPowers[12], kPowers[16], kPowers[20],
                                           kPowers[24], kPowers[28]);
  const Ints fraction = bit_cast<Ints>(_mm256_permutevar8x32_epi32(powers, bit_cast<__m256i>(n)));
#else
  constexpr int32_t fraction = kPowers[0];
#endif
  return bit_cast<Floats>((n << (23 - kStepBits)) + fraction);
}

// h / (1 + e^-h), fine or coarse. NaN stays NaN.
template <bool kIsFine, int N>
inline void silu(Floats (&h)[N]) {
  constexpr float kMinusLog2e = -1.442695041f;  // -log2(e)
  constexpr float kMaxMagnitude = 87;                // e^87 and e^-87 are normal numbers
  Floats n[N], f[N], q[N];
  for (int u = 0; u < N; ++u) {
    const Floats z = min(max(h[u], broadcast(-kMaxMagnitude)), broadcast(kMaxMagnitude));
    n[u] = fma(z, broadcast(kMinusLog2e), broadcast(kShift)), f[u] = fma(z, broadcast(kMinusLog2e), kShift - n[u]);
  }
  for (int u = 0; u < N; ++u) n[u] = exp2_by_table(n[u]), q[u] = broadcast(kIsFine ? kFine[0] : kCoarse[0]);
  constexpr int kTerms = kIsFine ? std::size(kFine) : std::size(kCoarse);
  for (int k = 1; k < kTerms; ++k) {
    for (int u = 0; u < N; ++u) q[u] = fma(q[u], f[u], broadcast(kIsFine ? kFine[k] : kCoarse[k]));
  }
  for (int u = 0; u < N; ++u) h[u] /= fma(n[u] * f[u], q[u], n[u] + 1.0f);
}

}  // namespace
}  // namespace fastdiff::cpu
