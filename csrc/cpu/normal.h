// Counter-based normal noise in bulk; fastdiff/ops/philox.py has the definition. Internal linkage: see convert.h.
#pragma once

#include <cmath>

#include "../philox.h"
#include "convert.h"

namespace fastdiff::cpu {
namespace {

// sqrt(-2 ln u) for u in (0, 1]: u = 2^e m with m in [sqrt(1/2), sqrt(2)), then a minimax polynomial in m - 1.
inline float radius(float u) {
  const int32_t shifted = bits<int32_t>(u) - 0x3f3504f3;
  const float e = static_cast<float>(shifted >> 23);
  const float f = bits<float>((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  float p = 7.0376836292e-2f;
  p = mad(p, f, -1.1514610310e-1f);
  p = mad(p, f, 1.1676998740e-1f);
  p = mad(p, f, -1.2420140846e-1f);
  p = mad(p, f, 1.4249322787e-1f);
  p = mad(p, f, -1.6668057665e-1f);
  p = mad(p, f, 2.0000714765e-1f);
  p = mad(p, f, -2.4999993993e-1f);
  p = mad(p, f, 3.3333331174e-1f);
  const float tail = f * f * mad(p, f, -0.5f);
  const float ln = mad(e, 0.693147180559945f, f + tail);
  return __builtin_sqrtf(-2.0f * ln);
}

// cos and sin of 2 pi s 2^-32: the nearest quarter turn is split off exactly, in integers.
inline void turn(uint32_t s, float& cosine, float& sine) {
  const uint32_t quarter = (s + 0x20000000u) >> 30;
  const float y = static_cast<float>(static_cast<int32_t>(s - (quarter << 30))) * 1.46291807926716e-9f, z = y * y;
  const float sin_tail = mad(mad(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
  const float cos_tail = mad(mad(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
  const float sin_y = mad(y * z, sin_tail, y), cos_y = mad(z * z, cos_tail, mad(z, -0.5f, 1.0f));
  const bool odd = quarter & 1u;
  const uint32_t c = bits<uint32_t>(odd ? sin_y : cos_y) ^ ((quarter + 1) & 2u) << 30;
  const uint32_t n = bits<uint32_t>(odd ? cos_y : sin_y) ^ (quarter & 2u) << 30;
  cosine = bits<float>(c);
  sine = bits<float>(n);
}

inline double radius(double u) { return __builtin_sqrt(-2.0 * ::log(u)); }

inline void turn(uint32_t s, double& cosine, double& sine) {
  const double angle = static_cast<double>(s) * (6.283185307179586476925 * 0x1p-32);
  cosine = ::cos(angle);
  sine = ::sin(angle);
}

// Normals for elements 4 block .. 4 (block + blocks) - 1 of one sample.
template <class T>
void normals(uint64_t seed, uint32_t noise, uint64_t block, int64_t blocks, T* __restrict out) {
  for (int64_t i = 0; i < blocks; ++i) {
    const Words words = philox(seed, block + static_cast<uint64_t>(i), noise);
    for (int pair = 0; pair < 4; pair += 2) {
      T cosine, sine;
      turn(words.r[pair + 1], cosine, sine);
      const T r = radius(static_cast<T>(radius_uniform(words.r[pair])));
      out[4 * i + pair] = r * cosine;
      out[4 * i + pair + 1] = r * sine;
    }
  }
}

}  // namespace
}  // namespace fastdiff::cpu
