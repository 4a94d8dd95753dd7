// lanes.h on 512-bit registers: AVX-512 F, BW, DQ and VL, and BF16 where it is there.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where one is NaN
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline void stream(void* to, __m512i v) { _mm512_stream_si512(static_cast<__m512i*>(to), v); }
inline void stream(float* to, Floats v) { stream(static_cast<void*>(to), bit_cast<__m512i>(v)); }
inline Floats load(const Float16* from) { return _mm512_cvtph_ps(bit_cast<__m256i>(load_16_bits(from))); }
inline Floats load(const BFloat16* from) {
  return bit_cast<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bit_cast<__m256i>(load_16_bits(from))), 16));
}
#ifdef __AVX512BF16__
// As narrow() in convert.h but for a NaN's sign and payload, which stay, and for numbers below 2^-126, which become 0.
inline void store(BFloat16* to, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bit_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
inline __m512i pack(const BFloat16*, Floats a, Floats b) { return bit_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)); }
#else
// As narrow() in convert.h but for the sign of NaN, in the high halves.
inline __m512i round_to_bf16(Floats v) {
  const __m512i word = bit_cast<__m512i>(v), quiet_nan = _mm512_set1_epi32(0x33);
  const __mmask16 odd = _mm512_test_epi32_mask(word, _mm512_set1_epi32(1 << 16));
  const __m512i up = _mm512_add_epi32(word, _mm512_set1_epi32(0x7fff));
  const __m512i even = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
  return bit_cast<__m512i>(_mm512_fixupimm_ps(bit_cast<__m512>(even), v, quiet_nan, 0));
}
inline void store(BFloat16* to, Floats v) {
  const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_to_bf16(v), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
}
inline __m512i pack(const BFloat16*, Floats a, Floats b) {
  constexpr auto odd = [] {
    UInt16s2 index{};
    for (int i = 0; i < 2 * kLanes; ++i) index[i] = 2 * i + 1;
    return index;
  };
  return _mm512_permutex2var_epi16(round_to_bf16(a), bit_cast<__m512i>(odd()), round_to_bf16(b));
}
#endif
inline __m512i pack(const Float16*, Floats a, Floats b) {
  const __m256i low = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
  const __m256i high = _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
inline void store(BFloat16* to, Floats a, Floats b) { _mm512_storeu_si512(to, pack(to, a, b)); }
inline void store(Float16* to, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats sqrt(Floats v) { return _mm512_sqrt_ps(v); }
inline Floats to_float(UInts v) { return _mm512_cvtepu32_ps(bit_cast<__m512i>(v)); }
inline UInt64s mul_even(UInt64s a, UInt64s b) {
  return bit_cast<UInt64s>(_mm512_mul_epu32(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
}
inline UInt64s high_words(UInt64s v) {
  return bit_cast<UInt64s>(_mm512_shuffle_epi32(bit_cast<__m512i>(v), _MM_PERM_DDBB));
}
inline UInts interleave_even(UInt64s even, UInt64s odd) {
  const __m512i from = bit_cast<__m512i>(odd);
  return bit_cast<UInts>(_mm512_mask_shuffle_epi32(bit_cast<__m512i>(even), 0xaaaa, from, _MM_PERM_CCAA));
}
inline Floats interleave_low(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
inline Floats interleave_high(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
// Where lanes 2j and 2j + 1 hold blocks j and j + 4, interleaving two vectors gives blocks in order.
inline UInt64s block_order() { return UInt64s{0, 4, 1, 5, 2, 6, 3, 7}; }

}  // namespace
}  // namespace fastdiff::cpu
