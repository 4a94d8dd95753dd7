// lanes.h on 256-bit registers: AVX2, FMA and F16C.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b where one is NaN
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline void stream(void* to, __m256i v) { _mm256_stream_si256(static_cast<__m256i*>(to), v); }
inline void stream(float* to, Floats v) { stream(static_cast<void*>(to), bit_cast<__m256i>(v)); }
inline Floats load(const Float16* from) { return _mm256_cvtph_ps(bit_cast<__m128i>(load_16_bits(from))); }
inline void store(Float16* to, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load(const BFloat16* from) {
  return bit_cast<Floats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bit_cast<__m128i>(load_16_bits(from))), 16));
}
inline __m256i round_to_bf16(Floats v) {  // as narrow() in convert.h, in the low halves
  const __m256i word = bit_cast<__m256i>(v), odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
  const __m256i even = _mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7fff)), odd);
  const __m256 nan = _mm256_set1_ps(bit_cast<float>(0x7fc00000)), is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  return _mm256_srli_epi32(bit_cast<__m256i>(_mm256_blendv_ps(bit_cast<__m256>(even), nan, is_nan)), 16);
}
inline void store(BFloat16* to, Floats v) {
  const __m256i half = round_to_bf16(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
inline __m256i pack(const BFloat16*, Floats a, Floats b) {
  const __m256i by_lanes = _mm256_packus_epi32(round_to_bf16(a), round_to_bf16(b));
  return _mm256_permute4x64_epi64(by_lanes, _MM_SHUFFLE(3, 1, 2, 0));
}
inline __m256i pack(const Float16*, Floats a, Floats b) {
  const __m128i low = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
  const __m128i high = _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
  return _mm256_set_m128i(high, low);
}
inline void store(BFloat16* to, Floats a, Floats b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pack(to, a, b));
}
inline Floats sqrt(Floats v) { return _mm256_sqrt_ps(v); }
inline UInt64s mul_even(UInt64s a, UInt64s b) {
  return bit_cast<UInt64s>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
}
inline UInt64s high_words(UInt64s v) { return v >> 32; }
inline UInts interleave_even(UInt64s even, UInt64s odd) {
  const __m256i shifted = _mm256_shuffle_epi32(bit_cast<__m256i>(odd), 0xa0);
  return bit_cast<UInts>(_mm256_blend_epi32(bit_cast<__m256i>(even), shifted, 0xaa));
}
inline Floats interleave_low(Floats a, Floats b) { return _mm256_unpacklo_ps(a, b); }
inline Floats interleave_high(Floats a, Floats b) { return _mm256_unpackhi_ps(a, b); }
inline UInt64s block_order() { return UInt64s{0, 2, 1, 3}; }

// The halves are exact, so the one rounding is the sum's.
inline Floats to_float(UInts v) {
  const Floats high = to_float(bit_cast<Ints>(v >> 16)), low = to_float(bit_cast<Ints>(v & 0xffff));
  return fma(high, Floats{} + 65536.0f, low);
}

}  // namespace
}  // namespace fastdiff::cpu
