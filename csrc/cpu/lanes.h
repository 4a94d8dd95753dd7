// The few vector operations that kernels need beyond the compiler's own vector types. Internal linkage: see kernels.h.
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
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
typedef uint16_t UInt16s __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t UInt16s2 __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UInts __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UInt64s __attribute__((vector_size(kVectorBytes)));

inline Floats to_float(Ints v) { return __builtin_convertvector(v, Floats); }
inline Floats broadcast(float v) { return v - Floats{}; }

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

inline UInt16s load_16_bits(const void* from) {
  UInt16s v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

}  // namespace
}  // namespace fastdiff::cpu

#if defined(__AVX512F__)
#include "lanes_avx512.h"
#elif defined(__AVX2__)
#include "lanes_avx2.h"
#else
#include "lanes_portable.h"
#endif

namespace fastdiff::cpu {
namespace {

// Stores past the caches, to vectors' own alignment; other threads see them after this one's store_fence().
inline void store_fence() {
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
    stream(to, pack(to, a, b));
  }
#endif
}

// Two vectors' worth of elements next to each other, in an order that is the type's own.
template <class T>
inline void load_in_any_order(const T* from, Floats (&v)[2]) {
  v[0] = load(from), v[1] = load(from + kLanes);
}

inline void load_in_any_order(const BFloat16* from, Floats (&v)[2]) {
  UInts pairs;
  std::memcpy(&pairs, from, sizeof pairs);
  v[0] = bit_cast<Floats>(pairs << 16), v[1] = bit_cast<Floats>(pairs & 0xffff0000);
}

// A polynomial in x, highest power first.
template <class F>
inline F horner(F x, F sum) {
  static_cast<void>(x);
  return sum;
}

template <class F, class... More>
inline F horner(F x, F sum, float next, More... more) {
  return horner(x, fma(sum, x, F{} + next), more...);
}

}  // namespace
}  // namespace fastdiff::cpu
