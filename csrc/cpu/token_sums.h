// The largest logit of a stretch and sums of its tokens' weights, and of a row's stretches. Internal linkage: see
// kernels.h.
#pragma once

#include "exp2.h"
#include "scratch.h"
#include "sums.h"
#include "token_reader.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kCacheLine = 64;  // bytes
constexpr float kLog2e = 1.44269504089f;
constexpr double kLargest = 0x1.fffffep127;  // float
constexpr float kLeastExponent = -3e38f;     // in place of -inf, which 0 must not be multiplied by

// d = z - largest <= 0, finite.
inline Floats below(Floats z, Floats largest) { return max(broadcast(kLeastExponent), z - largest); }

// Asks for memory that is needed soon, if it is there at all.
inline void fetch(uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address)); }

// Weights e^(d / temperature), in base 2.
inline Floats weight(Floats d, Floats scale) { return exp2_of_negative(d * scale); }

// log2(e) / temperature.
inline float scale_of(double inverse) {
  const double scale = inverse * static_cast<double>(kLog2e);
  return static_cast<float>(scale > kLargest ? kLargest : scale);
}

// What logits are counted from, so that the padding's weights are 0 whatever the largest logit.
inline float finite_or_zero(float largest) { return largest - largest == 0 ? largest : 0; }

inline float largest_of(Floats v) {
  float largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

// Of every stretch of a row: its largest logit m, the lanes' largest, the sums of w = e^(z - m) and of w (z - m), and the
// same at the temperature. Its arrays are as long as a whole number of vectors.
class StretchSums {
 public:
  explicit StretchSums(int64_t vocabulary) {
    count = (vocabulary + kStretch - 1) / kStretch;
    padded = (count + kLanes - 1) / kLanes * kLanes;
    static thread_local Scratch scratch;
    scratch.reserve((5 + kLanes) * padded);
    largest = scratch.take(padded);
    sum = scratch.take(padded), moment = scratch.take(padded);
    drawn = scratch.take(padded), drawn_moment = scratch.take(padded);
    lanes = scratch.take(kLanes * padded);
    for (int64_t s = count; s < padded; ++s) {
      largest[s] = -kInfinity;
      sum[s] = moment[s] = drawn[s] = drawn_moment[s] = 0;
    }
  }

  int64_t count, padded;
  float *largest, *sum, *moment, *drawn, *drawn_moment;
  float* lanes;  // [count, kLanes]
};

inline Floats lanes_largest(const Stretch& stretch) {
  Floats most[4];
  for (int u = 0; u < 4; ++u) most[u] = broadcast(-kInfinity);
  for (int64_t i = 0; i < stretch.padded; i += kTogether) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) most[u] = max(load(stretch.z + i + u * kLanes), most[u]);  // a NaN is passed over
  }
  return max(max(most[0], most[1]), max(most[2], most[3]));
}

// NaN comes into the sums, and so does that of +inf - inf. `bytes` of a logit in memory: the next stretch is fetched while
// this one's sums are made, or the memory would have nothing to do.
template <bool kTempered>
inline void add_stretch(const Stretch& stretch, int64_t bytes, float scale, int64_t s, StretchSums& to) {
  const Floats most = lanes_largest(stretch);
  store(to.lanes + s * kLanes, most);
  to.largest[s] = largest_of(most);
  const Floats from = broadcast(finite_or_zero(to.largest[s]));
  Floats sum[2] = {}, moment[2] = {}, drawn[2] = {}, drawn_moment[2] = {};
  for (int64_t i = 0; i < stretch.padded; i += 2 * kLanes) {
    for (int64_t at = i * bytes; at < (i + 2 * kLanes) * bytes; at += kCacheLine) fetch(stretch.next + at);
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      const Floats d = below(load(stretch.z + i + u * kLanes), from);
      const Floats w = weight(d, broadcast(kLog2e));
      sum[u] += w, moment[u] = fma(w, d, moment[u]);
      if constexpr (kTempered) {
        const Floats v = weight(d, broadcast(scale));
        drawn[u] += v, drawn_moment[u] = fma(v, d, drawn_moment[u]);
      }
    }
  }
  to.sum[s] = static_cast<float>(sum_of(sum[0] + sum[1]));
  to.moment[s] = static_cast<float>(sum_of(moment[0] + moment[1]));
  if constexpr (kTempered) {
    to.drawn[s] = static_cast<float>(sum_of(drawn[0] + drawn[1]));
    to.drawn_moment[s] = static_cast<float>(sum_of(drawn_moment[0] + drawn_moment[1]));
  }
}

// A law's normaliser and first moment: sums of w = e^(x / temperature) and of w x, where x = z - the row's largest logit.
struct Law {
  double sum = 0, moment = 0;
};

// Of the row, from its stretches, whose sums become their shares in it.
inline Law merge(const StretchSums& from, float* sum, const float* moment, float largest, float scale) {
  Law law;
  const Floats most = broadcast(finite_or_zero(largest));
  for (int64_t s = 0; s < from.padded; s += kLanes) {
    const Floats d = below(load(from.largest + s), most), factor = weight(d, broadcast(scale));
    const Floats own = load(sum + s), share = factor * own;
    law.sum += sum_of(share);
    law.moment += sum_of(factor * fma(d, own, load(moment + s)));
    store(sum + s, share);
  }
  return law;
}

// -sum p ln p of p = w / sum, w = e^(inverse x).
inline double entropy(const Law& law, double inverse) { return __builtin_log(law.sum) - inverse * (law.moment / law.sum); }

}  // namespace
}  // namespace fastdiff::cpu
