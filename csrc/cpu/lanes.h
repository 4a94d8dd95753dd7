// The few vector operations that kernels need beyond the compiler's own vector types. Internal linkage: see convert.h.
#pragma once

#include <cstdint>

#include "convert.h"

#if defined(__AVX2__)
#define FASTDIFF_LANES  // the operations that only noise needs
#include <immintrin.h>
#endif

namespace fastdiff::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVector = 64;
#elif defined(__AVX2__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif
constexpr int kLanes = kVector / 4;

typedef float Floats __attribute__((vector_size(kVector)));
typedef int32_t Ints __attribute__((vector_size(kVector)));
typedef uint16_t Shorts __attribute__((vector_size(kVector / 2)));
typedef uint16_t Shorts2 __attribute__((vector_size(kVector)));
typedef uint32_t Words32 __attribute__((vector_size(kVector)));
typedef uint64_t Words64 __attribute__((vector_size(kVector)));

inline Floats to_float(Ints v) { return __builtin_convertvector(v, Floats); }
inline Floats spread(float v) { return v - Floats{}; }

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

inline Shorts load_shorts(const void* from) {
  Shorts v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

#ifndef __AVX2__

inline Floats load(const BFloat* from) {
  return bits<Floats>(__builtin_convertvector(load_shorts(from), Words32) << 16);
}

inline void store(BFloat* to, Floats v) {  // as narrow() in convert.h
  const Words32 word = bits<Words32>(v), rounded = word + 0x7fff + ((word >> 16) & 1);
  const Words32 half = (word & 0x7fffffff) > 0x7f800000 ? Words32{} + 0x7fc0 : rounded >> 16;
  const Shorts shorts = __builtin_convertvector(half, Shorts);
  std::memcpy(to, &shorts, sizeof shorts);
}

#endif

#ifndef __F16C__

inline Floats load(const Half* from) {
  Floats v;
  for (int i = 0; i < kLanes; ++i) v[i] = widen(from[i]);
  return v;
}

inline void store(Half* to, Floats v) {
  for (int i = 0; i < kLanes; ++i) narrow(v[i], to[i]);
}

#endif

#if defined(__AVX512F__)

inline Floats mad(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where one is NaN
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline void stream(void* to, __m512i v) { _mm512_stream_si512(static_cast<__m512i*>(to), v); }
inline void stream(float* to, Floats v) { stream(static_cast<void*>(to), bits<__m512i>(v)); }
inline Floats load(const Half* from) { return _mm512_cvtph_ps(bits<__m256i>(load_shorts(from))); }
inline Floats load(const BFloat* from) {
  return bits<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits<__m256i>(load_shorts(from))), 16));
}
#ifdef __AVX512BF16__
// As narrow() in convert.h but for a NaN's sign and payload, which stay, and for numbers below 2^-126, which become 0.
inline void store(BFloat* to, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits<__m256i>(_mm512_cvtneps_pbh(v)));
}
inline __m512i packed(const BFloat*, Floats a, Floats b) { return bits<__m512i>(_mm512_cvtne2ps_pbh(b, a)); }
#else
// As narrow() in convert.h but for the sign of NaN, in the high halves.
inline __m512i rounded(Floats v) {
  const __m512i word = bits<__m512i>(v), quiet_nan = _mm512_set1_epi32(0x33);
  const __mmask16 odd = _mm512_test_epi32_mask(word, _mm512_set1_epi32(1 << 16));
  const __m512i up = _mm512_add_epi32(word, _mm512_set1_epi32(0x7fff));
  const __m512i even = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
  return bits<__m512i>(_mm512_fixupimm_ps(bits<__m512>(even), v, quiet_nan, 0));
}
inline void store(BFloat* to, Floats v) {
  const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(v), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
}
inline __m512i packed(const BFloat*, Floats a, Floats b) {
  constexpr auto odd = [] {
    Shorts2 index{};
    for (int i = 0; i < 2 * kLanes; ++i) index[i] = 2 * i + 1;
    return index;
  };
  return _mm512_permutex2var_epi16(rounded(a), bits<__m512i>(odd()), rounded(b));
}
#endif
inline __m512i packed(const Half*, Floats a, Floats b) {
  const __m256i low = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT), high = _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
inline void store(BFloat* to, Floats a, Floats b) { _mm512_storeu_si512(to, packed(to, a, b)); }
inline void store(Half* to, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats root(Floats v) { return _mm512_sqrt_ps(v); }
inline Floats to_float(Words32 v) { return _mm512_cvtepu32_ps(bits<__m512i>(v)); }
inline Words64 product(Words64 a, Words64 b) {
  return bits<Words64>(_mm512_mul_epu32(bits<__m512i>(a), bits<__m512i>(b)));
}
inline Words64 high(Words64 v) { return bits<Words64>(_mm512_shuffle_epi32(bits<__m512i>(v), _MM_PERM_DDBB)); }
inline Words32 join(Words64 even, Words64 odd) {
  return bits<Words32>(_mm512_mask_shuffle_epi32(bits<__m512i>(even), 0xaaaa, bits<__m512i>(odd), _MM_PERM_CCAA));
}
inline Floats interleave_low(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
inline Floats interleave_high(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
// Where lanes 2j and 2j + 1 hold blocks j and j + 4, interleaving two vectors gives blocks in order.
inline Words64 block_order() { return Words64{0, 4, 1, 5, 2, 6, 3, 7}; }

#elif defined(__AVX2__)

inline Floats mad(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b where one is NaN
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline void stream(void* to, __m256i v) { _mm256_stream_si256(static_cast<__m256i*>(to), v); }
inline void stream(float* to, Floats v) { stream(static_cast<void*>(to), bits<__m256i>(v)); }
inline Floats load(const Half* from) { return _mm256_cvtph_ps(bits<__m128i>(load_shorts(from))); }
inline void store(Half* to, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load(const BFloat* from) {
  return bits<Floats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits<__m128i>(load_shorts(from))), 16));
}
inline __m256i rounded(Floats v) {  // as narrow() in convert.h, in the low halves
  const __m256i word = bits<__m256i>(v), odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
  const __m256i even = _mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7fff)), odd);
  const __m256 nan = _mm256_set1_ps(bits<float>(0x7fc00000)), is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  return _mm256_srli_epi32(bits<__m256i>(_mm256_blendv_ps(bits<__m256>(even), nan, is_nan)), 16);
}
inline void store(BFloat* to, Floats v) {
  const __m256i half = rounded(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
inline __m256i packed(const BFloat*, Floats a, Floats b) {
  const __m256i by_lanes = _mm256_packus_epi32(rounded(a), rounded(b));
  return _mm256_permute4x64_epi64(by_lanes, _MM_SHUFFLE(3, 1, 2, 0));
}
inline __m256i packed(const Half*, Floats a, Floats b) {
  return _mm256_set_m128i(_mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(BFloat* to, Floats a, Floats b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed(to, a, b));
}
inline Floats root(Floats v) { return _mm256_sqrt_ps(v); }
inline Words64 product(Words64 a, Words64 b) {
  return bits<Words64>(_mm256_mul_epu32(bits<__m256i>(a), bits<__m256i>(b)));
}
inline Words64 high(Words64 v) { return v >> 32; }
inline Words32 join(Words64 even, Words64 odd) {
  return bits<Words32>(_mm256_blend_epi32(bits<__m256i>(even), _mm256_shuffle_epi32(bits<__m256i>(odd), 0xa0), 0xaa));
}
inline Floats interleave_low(Floats a, Floats b) { return _mm256_unpacklo_ps(a, b); }
inline Floats interleave_high(Floats a, Floats b) { return _mm256_unpackhi_ps(a, b); }
inline Words64 block_order() { return Words64{0, 2, 1, 3}; }

// The halves are exact, so the one rounding is the sum's.
inline Floats to_float(Words32 v) {
  const Floats high = to_float(bits<Ints>(v >> 16)), low = to_float(bits<Ints>(v & 0xffff));
  return mad(high, Floats{} + 65536.0f, low);
}

#else

inline Floats mad(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }  // b where one is NaN
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

#endif

// Stores past the caches, to vectors' own alignment; other threads see them after this one's drain().
inline void drain() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Two vectors next to each other, which bfloat16 stores together at less cost.
template <class T>
inline void store(T* to, Floats a, Floats b) {
  store(to, a), store(to + kLanes, b);
}

// Two vectors next to each other, past the caches.
template <class T>
inline void stream(T* to, Floats a, Floats b) {
#if !defined(__AVX2__)
  store(to, a, b);
#else
  if constexpr (sizeof(T) == 4) {
    stream(to, a), stream(to + kLanes, b);
  } else {
    stream(to, packed(to, a, b));
  }
#endif
}

// Two vectors' worth of elements next to each other, in an order that is the type's own.
template <class T>
inline void load_in_any_order(const T* from, Floats (&v)[2]) {
  v[0] = load(from), v[1] = load(from + kLanes);
}

inline void load_in_any_order(const BFloat* from, Floats (&v)[2]) {
  Words32 pairs;
  std::memcpy(&pairs, from, sizeof pairs);
  v[0] = bits<Floats>(pairs << 16), v[1] = bits<Floats>(pairs & 0xffff0000);
}

// A polynomial in x, highest power first.
template <class F>
inline F horner(F x, F sum) {
  static_cast<void>(x);
  return sum;
}

template <class F, class... More>
inline F horner(F x, F sum, float next, More... more) {
  return horner(x, mad(sum, x, F{} + next), more...);
}

}  // namespace
}  // namespace fastdiff::cpu
