// A packet: W consecutive elements held as they lie in memory. Loading and converting are two steps, so that all the
// loads of a thread are in flight before the first is used, whatever mix of dtypes they have.
#pragma once

#include <cstring>

#include "../solver_step.h"
#include "inline.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastdiff::cuda {

#if !defined(__CUDACC__)
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
#endif

template <class To, class From>
FASTDIFF_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// One memory access of so many bytes.
template <int Bytes> struct Access;
template <> struct Access<2> { using type = unsigned short; };
template <> struct Access<4> { using type = unsigned int; };
template <> struct Access<8> { using type = uint2; };
template <> struct Access<16> { using type = uint4; };

// Between accesses and whole words: a partial write would keep the words out of registers.
FASTDIFF_INLINE void split_words(unsigned short v, uint32_t* word) { word[0] = v; }
FASTDIFF_INLINE void split_words(unsigned int v, uint32_t* word) { word[0] = v; }
FASTDIFF_INLINE void split_words(uint2 v, uint32_t* word) { word[0] = v.x, word[1] = v.y; }
FASTDIFF_INLINE void split_words(uint4 v, uint32_t* word) {
  word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
}
FASTDIFF_INLINE void join_words(unsigned short& v, const uint32_t* word) { v = static_cast<unsigned short>(word[0]); }
FASTDIFF_INLINE void join_words(unsigned int& v, const uint32_t* word) { v = word[0]; }
FASTDIFF_INLINE void join_words(uint2& v, const uint32_t* word) { v = {word[0], word[1]}; }
FASTDIFF_INLINE void join_words(uint4& v, const uint32_t* word) { v = {word[0], word[1], word[2], word[3]}; }

// `once`: nobody reads these bytes again, so they should leave the cache first.
template <class V>
FASTDIFF_INLINE V read(const V* from, [[maybe_unused]] bool once) {
#if defined(__CUDA_ARCH__)
  return once ? __ldcs(from) : __ldg(from);
#else
  return *from;
#endif
}

// T is the compute type, and no element is wider than it.
template <class T, int W>
struct Packet {
  uint32_t word[(W * sizeof(T) + 3) / 4];

  template <int Bytes>
  FASTDIFF_INLINE void load(const char* from, bool once) {
    constexpr int step = Bytes < 16 ? Bytes : 16;
    using V = typename Access<step>::type;
    for (int i = 0; i < Bytes / step; ++i) {
      split_words(read(reinterpret_cast<const V*>(from) + i, once), word + i * step / 4);
    }
  }

  template <int Bytes>
  FASTDIFF_INLINE void store(char* to) const {
    constexpr int step = Bytes < 16 ? Bytes : 16;
    using V = typename Access<step>::type;
    for (int i = 0; i < Bytes / step; ++i) {
      join_words(reinterpret_cast<V*>(to)[i], word + i * step / 4);
    }
  }
};

template <class T, int W>
FASTDIFF_INLINE void load(Packet<T, W>& p, const Operand& from, int64_t offset, bool once = false) {
  const char* data = static_cast<const char*>(from.data);
  if (from.dtype == DType::f32) {
    p.template load<4 * W>(data + 4 * offset, once);
  } else if (sizeof(T) == 8 && from.dtype == DType::f64) {
    if constexpr (sizeof(T) == 8) p.template load<8 * W>(data + 8 * offset, once);
  } else {
    p.template load<2 * W>(data + 2 * offset, once);
  }
}

// Halves travel two to a word, the first in the low bits.
FASTDIFF_INLINE void unpack_halves(uint32_t word, bool bf16, float& low, float& high) {
  if (bf16) {
    low = bit_cast<float>(word << 16), high = bit_cast<float>(word & 0xffff0000u);
    return;
  }
#if defined(__CUDACC__)
  const float2 pair = __half22float2(bit_cast<__half2>(word));
  low = pair.x, high = pair.y;
#else
  low = bit_cast<_Float16>(static_cast<uint16_t>(word)), high = bit_cast<_Float16>(static_cast<uint16_t>(word >> 16));
#endif
}

#if !defined(__CUDACC__)
inline uint32_t round_to_bf16(float v) {
  const uint32_t word = bit_cast<uint32_t>(v);
  return v != v ? 0x7fffu : (word + 0x7fffu + (word >> 16 & 1)) >> 16;
}
#endif

FASTDIFF_INLINE uint32_t pack_halves(float low, float high, bool bf16) {
#if defined(__CUDACC__)
  return bf16 ? bit_cast<uint32_t>(__floats2bfloat162_rn(low, high)) : bit_cast<uint32_t>(__floats2half2_rn(low, high));
#else
  if (bf16) return round_to_bf16(low) | round_to_bf16(high) << 16;
  const auto half = [](float v) -> uint32_t { return bit_cast<uint16_t>(static_cast<_Float16>(v)); };
  return half(low) | half(high) << 16;
#endif
}

template <class T, int W>
FASTDIFF_INLINE void unpack(const Packet<T, W>& p, DType dtype, T (&value)[W]) {
  if (dtype == DType::f32) {
    for (int i = 0; i < W; ++i) value[i] = bit_cast<float>(p.word[i]);
  } else if (sizeof(T) == 8 && dtype == DType::f64) {
    if constexpr (sizeof(T) == 8) {
      for (int i = 0; i < W; ++i) value[i] = bit_cast<double>(uint2{p.word[2 * i], p.word[2 * i + 1]});
    }
  } else {
    for (int i = 0; i < W; i += 2) {
      float low, high;
      unpack_halves(p.word[i / 2], dtype == DType::bf16, low, high);
      value[i] = low;
      if (W > 1) value[i + 1] = high;
    }
  }
}

template <class T, int W>
FASTDIFF_INLINE void store(const Operand& to, int64_t offset, const T (&value)[W]) {
  Packet<T, W> p;
  char* data = static_cast<char*>(to.data);
  if (to.dtype == DType::f32) {
    for (int i = 0; i < W; ++i) p.word[i] = bit_cast<uint32_t>(static_cast<float>(value[i]));
    p.template store<4 * W>(data + 4 * offset);
  } else if (sizeof(T) == 8 && to.dtype == DType::f64) {
    if constexpr (sizeof(T) == 8) {
      for (int i = 0; i < W; ++i) split_words(bit_cast<uint2>(value[i]), p.word + 2 * i);
      p.template store<8 * W>(data + 8 * offset);
    }
  } else {
    for (int i = 0; i < W; i += 2) {
      const float low = static_cast<float>(value[i]), high = W > 1 ? static_cast<float>(value[i + 1]) : 0.f;
      p.word[i / 2] = pack_halves(low, high, to.dtype == DType::bf16);
    }
    p.template store<2 * W>(data + 2 * offset);
  }
}

}  // namespace fastdiff::cuda
