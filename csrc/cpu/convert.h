// Moving a block between any dtype and stride and the compute type. Internal linkage: see kernels.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "../solver_step.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace fastdiff::cpu {
namespace {

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// a b + c, fused where the instruction set has it; every element takes the same operations whether it falls in a
// vector or in the tail, so results do not depend on where a block is cut.
inline float fma(float a, float b, float c) {
#ifdef __FMA__
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline double fma(double a, double b, double c) {
#ifdef __FMA__
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

struct Float16 {
  uint16_t word;
};

struct BFloat16 {
  uint16_t word;
};

inline double widen(double v) { return v; }
inline float widen(float v) { return v; }
inline float widen(BFloat16 v) { return bit_cast<float>(static_cast<uint32_t>(v.word) << 16); }

inline float widen(Float16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.word & 0x8000) << 16, magnitude = (v.word & 0x7fffu) << 13;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
  const float scaled = bit_cast<float>(magnitude + 0x38000000u);             // exponent bias 15 to 127
  const float tiny = bit_cast<float>(magnitude + 0x38800000u) - 0x1p-14f;    // subnormal: the leading one is not there
  const float value = magnitude < 0x00800000u ? tiny : scaled;
  return bit_cast<float>(bit_cast<uint32_t>(value) | special | sign);
}

inline void narrow(double v, double& out) { out = v; }
inline void narrow(float v, float& out) { out = v; }
inline void narrow(double v, float& out) { out = static_cast<float>(v); }

inline void narrow(float v, BFloat16& out) {
  const uint32_t word = bit_cast<uint32_t>(v), rounded = word + 0x7fffu + ((word >> 16) & 1u);
  out.word = static_cast<uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded >> 16);
}

inline void narrow(float v, Float16& out) {
  const uint32_t word = bit_cast<uint32_t>(v), magnitude = word & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t tiny = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;  // the add rounds to 2^-24
  uint32_t half = magnitude < 0x38800000u ? tiny : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out.word = static_cast<uint16_t>(half | (word >> 16 & 0x8000u));
}

inline void narrow(double v, BFloat16& out) { narrow(static_cast<float>(v), out); }
inline void narrow(double v, Float16& out) { narrow(static_cast<float>(v), out); }

// How many elements from the start of a contiguous run the hardware's own conversion took.
template <class From, class To>
inline int64_t convert_vectors(const From*, int64_t, To*) {
  return 0;
}

#ifdef __F16C__
inline int64_t convert_vectors(const Float16* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  return i;
}

inline int64_t convert_vectors(const float* from, int64_t n, Float16* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
  return i;
}
#endif

template <class T, class S>
void load_run(const S* from, int64_t stride, int64_t n, T* __restrict to) {
  if (stride == 1) {
    for (int64_t i = convert_vectors(from, n, to); i < n; ++i) to[i] = static_cast<T>(widen(from[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(widen(from[i * stride]));
  }
}

template <class T, class S>
void store_run(const T* __restrict from, int64_t n, S* to, int64_t stride) {
  if (stride == 1) {
    for (int64_t i = convert_vectors(from, n, to); i < n; ++i) narrow(from[i], to[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) narrow(from[i], to[i * stride]);
  }
}

template <class T>
void load_run(const Operand& o, int64_t offset, int64_t stride, int64_t n, T* to) {
  switch (o.dtype) {
    case DType::f32: return load_run(static_cast<const float*>(o.data) + offset, stride, n, to);
    case DType::f64: return load_run(static_cast<const double*>(o.data) + offset, stride, n, to);
    case DType::f16: return load_run(static_cast<const Float16*>(o.data) + offset, stride, n, to);
    case DType::bf16: return load_run(static_cast<const BFloat16*>(o.data) + offset, stride, n, to);
  }
}

template <class T>
void store_run(const T* from, int64_t n, const Operand& o, int64_t offset, int64_t stride) {
  switch (o.dtype) {
    case DType::f32: return store_run(from, n, static_cast<float*>(o.data) + offset, stride);
    case DType::f64: return store_run(from, n, static_cast<double*>(o.data) + offset, stride);
    case DType::f16: return store_run(from, n, static_cast<Float16*>(o.data) + offset, stride);
    case DType::bf16: return store_run(from, n, static_cast<BFloat16*>(o.data) + offset, stride);
  }
}

// Calls visit(offset, stride, first, count) for each stretch of elements [begin, begin + n) of one sample along which
// the operand has one stride.
template <class Call, class F>
void for_each_run(const Call& s, const Operand& o, int64_t sample, int64_t begin, int64_t n, F visit) {
  const int last = s.dims - 1;
  const int64_t inner = last > 0 ? s.size[last] : 1;
  int64_t index[kMaxDims], offset = sample * o.stride[0], outer = begin / inner;
  for (int d = last - 1; d > 0; --d) {
    index[d] = outer % s.size[d];
    outer /= s.size[d];
    offset += index[d] * o.stride[d];
  }
  int64_t column = begin % inner;
  for (int64_t done = 0; done < n;) {
    const int64_t count = inner - column < n - done ? inner - column : n - done;
    const int64_t stride = last > 0 ? o.stride[last] : 1;
    visit(offset + column * stride, stride, done, count);
    done += count;
    column = 0;
    for (int d = last - 1; d > 0; --d) {
      offset += o.stride[d];
      if (++index[d] < s.size[d]) break;
      offset -= s.size[d] * o.stride[d];
      index[d] = 0;
    }
  }
}

}  // namespace
}  // namespace fastdiff::cpu
