// Counter-based normal noise in bulk; fastdiff/ops/philox.py has the definition. Box-Muller's logarithm, root and turn
// are polynomials here: the library's functions are scalar, and differ between machines. Internal linkage: see
// kernels.h.
#pragma once

#include <cmath>

#include "../philox.h"
#include "convert.h"
#include "lanes.h"

namespace fastdiff::cpu {
namespace {

inline float to_float(int32_t v) { return static_cast<float>(v); }
inline float to_float(uint32_t v) { return static_cast<float>(v); }
inline float sqrt(float v) { return __builtin_sqrtf(v); }

// sqrt(-2 ln u) for r = 2^32 u - 1/2: u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and a minimax polynomial for
// -2 (ln(1 + f) - f) / f^2, to 3e-8 of the logarithm.
template <class F, class I, class U>
inline F radius(U r) {
  const F u = fma(to_float(r), F{} + 0x1p-32f, F{} + 0x1p-33f);
  const I shifted = bit_cast<I>(u) - 0x3f3504f3;
  const F f = bit_cast<F>((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const F tail = horner(f, F{} - 1.7469682120e-1f, 2.8615052792e-1f, -2.9835952690e-1f, 3.3141015501e-1f,
                        -3.9924143710e-1f, 5.0003510525e-1f, -6.6667900456e-1f, 9.9999983213e-1f);
  const F head = fma(f, F{} - 2.0f, to_float(shifted >> 23) * -1.3862943611f);
  return sqrt(fma(f * f, tail, head));
}

// cos and sin of 2 pi s 2^-32: the nearest quarter turn is split off exactly, in integers.
template <class F, class I, class U>
inline void cos_sin(U s, F& cosine, F& sine) {
  const U ahead = s + 0x20000000u;  // the quarter is in its two top bits
  const F y = to_float(bit_cast<I>(ahead & 0x3fffffffu) - 0x20000000) * 1.46291807926716e-9f, z = y * y;
  const F sin_y = fma(y * z, horner(z, F{} - 1.9515282621e-4f, 8.3321607578e-3f, -1.6666654609e-1f), y);
  const F cos_y = horner(z, F{} - 1.3591853037e-3f, 4.1655777004e-2f, -4.9999884745e-1f, 1.0f);
  const auto odd = (ahead & 0x40000000u) != 0;
  cosine = bit_cast<F>(bit_cast<U>(odd ? sin_y : cos_y) ^ ((ahead + 0x40000000u) & 0x80000000u));
  sine = bit_cast<F>(bit_cast<U>(odd ? cos_y : sin_y) ^ (ahead & 0x80000000u));
}

#ifdef FASTDIFF_LANES

// What Box-Muller takes: r_0 and r_2 in `radii`, r_1 and r_3 in `angles`.
struct Pairs {
  UInts radii, angles;
};

// Vectors worked on side by side: one alone would wait for its own multiplications.
constexpr int kChains = 4;
constexpr int kBlocks = kVectorBytes / 8;  // in a vector of counters

struct Keys {
  UInt64s first[10], second[10];

  explicit Keys(uint64_t seed) {
    for (uint32_t r = 0; r < 10; ++r) {
      first[r] = UInt64s{} + (static_cast<uint32_t>(seed) + r * 0x9E3779B9u);
      second[r] = UInt64s{} + (static_cast<uint32_t>(seed >> 32) + r * 0xBB67AE85u);
    }
  }
};

// Philox on 64-bit lanes, each word in a lane's low half and anything in its high half: its products are of 32 by 32
// bits to 64, which the instruction sets have for every other 32-bit lane only.
inline void philox_lanes(const Keys& keys, UInt64s block, UInt64s block_high, UInt64s noise, Pairs* out) {
  const UInt64s m0 = UInt64s{} + 0xD2511F53u, m1 = UInt64s{} + 0xCD9E8D57u;
  UInt64s c0[kChains], c1[kChains], c2[kChains], c3[kChains];
  for (int k = 0; k < kChains; ++k) c0[k] = block + k * kBlocks, c1[k] = block_high, c2[k] = noise, c3[k] = UInt64s{};
#pragma GCC unroll 10
  for (int r = 0; r < 10; ++r) {
    for (int k = 0; k < kChains; ++k) {
      const UInt64s p0 = mul_even(c0[k], m0), p1 = mul_even(c2[k], m1);
      c0[k] = high_words(p1) ^ c1[k] ^ keys.first[r];
      c1[k] = p1;
      c2[k] = high_words(p0) ^ c3[k] ^ keys.second[r];
      c3[k] = p0;
    }
  }
  for (int k = 0; k < kChains; ++k) out[k] = {interleave_even(c0[k], c2[k]), interleave_even(c1[k], c3[k])};
}

// Normals for elements 4 block .. 4 (block + blocks) - 1 of one sample, rounded up to whole vectors. `block` is a
// multiple of 256 and `blocks` at most that, so a call sees one high word of the block counter. each(element, count) is
// called ahead of every `count` elements: room for a caller's prefetches.
template <class Each>
inline void normals(uint64_t seed, uint32_t noise, uint64_t block, int64_t blocks, float* out, Each each) {
  const Keys keys(seed);
  const UInt64s block_high = UInt64s{} + (block >> 32), index = UInt64s{} + noise;
  UInt64s counter = block_order() + block;
  for (int64_t i = 0; i < blocks; i += kChains * kBlocks) {
    each(4 * i, 4 * kChains * kBlocks);
    Pairs pairs[kChains];
    philox_lanes(keys, counter, block_high, index, pairs);
    counter += kChains * kBlocks;
    for (int k = 0; k < kChains; ++k) {
      Floats cosine, sine;
      cos_sin<Floats, Ints>(pairs[k].angles, cosine, sine);
      const Floats r = radius<Floats, Ints>(pairs[k].radii), even = r * cosine, odd = r * sine;
      const Floats first = interleave_low(even, odd), second = interleave_high(even, odd);
      float* to = out + 4 * (i + k * kBlocks);
      __builtin_memcpy(to, &first, kVectorBytes);
      __builtin_memcpy(to + 2 * kBlocks, &second, kVectorBytes);
    }
  }
}

#else

template <class Each>
inline void normals(uint64_t seed, uint32_t noise, uint64_t block, int64_t blocks, float* __restrict out, Each) {
  for (int64_t i = 0; i < blocks; ++i) {
    const Words words = philox(seed, block + static_cast<uint64_t>(i), noise);
    for (int pair = 0; pair < 4; pair += 2) {
      float cosine, sine;
      cos_sin<float, int32_t>(words.r[pair + 1], cosine, sine);
      const float r = radius<float, int32_t>(words.r[pair]);
      out[4 * i + pair] = r * cosine;
      out[4 * i + pair + 1] = r * sine;
    }
  }
}

#endif

template <class Each>
inline void normals(uint64_t seed, uint32_t noise, uint64_t block, int64_t blocks, double* __restrict out, Each) {
  for (int64_t i = 0; i < blocks; ++i) {
    const Words words = philox(seed, block + static_cast<uint64_t>(i), noise);
    for (int pair = 0; pair < 4; pair += 2) {
      const double angle = words.r[pair + 1] * (6.283185307179586476925 * 0x1p-32);
      const double r = __builtin_sqrt(-2.0 * ::log(static_cast<double>(radius_uniform(words.r[pair]))));
      out[4 * i + pair] = r * ::cos(angle);
      out[4 * i + pair + 1] = r * ::sin(angle);
    }
  }
}

}  // namespace
}  // namespace fastdiff::cpu
