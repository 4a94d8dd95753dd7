// The law of a row's tokens that top_k and top_p leave. Internal linkage: see kernels.h.
#pragma once

#include "token_draw.h"
#include "token_filter.h"

namespace fastdiff::cpu {
namespace {

// A bit for each lane in which it holds.
inline unsigned lanes_of(Ints holds) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(bit_cast<__m512i>(holds));
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(bit_cast<__m256>(holds)));
#else
  unsigned lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= static_cast<unsigned>(holds[i] & 1) << i;
  return lanes;
#endif
}

template <class F>
inline void for_each_lane(unsigned lanes, F f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

// Finds the cut, and the weights of what is left.
template <class S>
class TokenCut {
 public:
  TokenCut(const TokenStats& t, TokenReader<S>& reader, StretchSums& sums) : t_(t), reader_(reader), sums_(sums) {
    by_count_ = t.top_k > 0 && t.top_k < t.vocabulary, by_mass_ = t.top_p < 1;
    if (!is_needed()) return;
    const int64_t room = (t.vocabulary + kLanes) / kLanes * kLanes;
    static thread_local Scratch scratch;
    scratch.reserve(2 * room + sums.padded);
    tokens_ = reinterpret_cast<WeighedToken*>(scratch.take(2 * room));
    equal_before_ = reinterpret_cast<int32_t*>(scratch.take(sums.padded));
  }

  bool is_needed() const { return by_count_ || by_mass_; }

  // Takes the place of the row's sums at the temperature. `sum`: that of all its weights.
  Law law(float largest, double sum, double inverse, float scale) {
    largest_ = largest, scale_ = scale;
    cut_ = {-kInfinity, kAll};
    if (by_count_) {
      cut_.least = kth();
      if (by_mass_) sum = weigh_all().sum;
    } else {
      cut_.least = least_of_nucleus((1 - t_.top_p) * sum, inverse);
    }
    if (by_mass_) cut_ = nucleus_of(t_.top_p * sum);
    return weigh_all();
  }

  // Of a stretch's tokens, relative to the stretch's largest.
  void weigh(const Stretch& stretch, int64_t s, float* weights) const {
    const Floats from = broadcast(sums_.largest[s]), least = broadcast(cut_.least), none{};
    int64_t equal = cut_.equal - equal_before_[s];
    for (int64_t i = 0; i < stretch.padded; i += kLanes) {
      const Floats z = load(stretch.z + i), w = fastdiff::cpu::weight(below(z, from), broadcast(scale_));
      const unsigned at_least = lanes_of(z == least);
      Floats kept = z > least ? w : none;
      for_each_lane(at_least, [&](int lane) { kept[lane] = equal-- > 0 ? w[lane] : 0; });
      store(weights + i, kept);
    }
  }

 private:
  static constexpr int64_t kAll = int64_t{1} << 40;
  static constexpr int kBuckets = 2048, kPerOctave = 64;

  // f(z, lanes) for every vector with logits that are at least `least`.
  template <class F>
  void for_each_at_least(float least, F f) {
    for (int64_t s = 0; s < sums_.count; ++s) {
      if (sums_.largest[s] < least || sums_.largest[s] == -kInfinity) continue;
      const Stretch stretch = reader_.read(s * kStretch);
      for (int64_t i = 0; i < stretch.padded; i += kLanes) {
        const Floats z = load(stretch.z + i);
        if (const unsigned lanes = lanes_of((z >= broadcast(least)) & (z > broadcast(-kInfinity)))) f(z, lanes);
      }
    }
  }

  // The top_k-th largest logit; -inf where fewer are allowed. That of as many stretches' or lanes' largest is no larger.
  float kth() {
    auto* values = reinterpret_cast<float*>(tokens_);
    const int64_t k = t_.top_k, lanes = sums_.count * kLanes;
    float least = -kInfinity;
    if (k <= sums_.count) {
      __builtin_memcpy(values, sums_.largest, sums_.count * sizeof(float));
      least = kth_largest(values, sums_.count, k);
    } else if (k <= lanes) {
      least = kth_largest(sums_.lanes, lanes, k);
    }
    int64_t count = 0;
    for_each_at_least(least, [&](Floats z, unsigned which) {
      for_each_lane(which, [&](int lane) { values[count++] = z[lane]; });
    });
    return k <= count ? kth_largest(values, count, k) : -kInfinity;
  }

  // A logit below which no token is in the nucleus: all tokens that weigh less together have less than 1 - top_p. With
  // room for rounding.
  float least_of_nucleus(double outside, double inverse) const {
    const double each = outside / static_cast<double>(t_.vocabulary) * 0.999;
    if (!(each > 0)) return -kInfinity;
    const double least = static_cast<double>(largest_) + __builtin_log(each) / inverse;
    return least > -kLargest ? static_cast<float>(least - 1e-6 * __builtin_fabs(least)) : -kInfinity;
  }

  // Where the largest of the tokens that are left reach the mass: in a bucket of logits, and in it by selection.
  Cut nucleus_of(double mass) {
    double masses[kBuckets] = {};
    for_each_at_least(cut_.least, [&](Floats z, unsigned which) {
      const Ints bucket = bucket_of(z);
      const Floats w = weight_of(z);
      for_each_lane(which, [&](int lane) { masses[bucket[lane]] += static_cast<double>(w[lane]); });
    });
    int b = 0;
    for (; b < kBuckets && masses[b] < mass; ++b) mass -= masses[b];
    if (b == kBuckets) return cut_;  // the mass is all of it, but for rounding
    int64_t count = 0;
    for_each_at_least(cut_.least, [&](Floats z, unsigned which) {
      which &= lanes_of(bucket_of(z) == b);
      if (which == 0) return;
      const Floats w = weight_of(z);
      for_each_lane(which, [&](int lane) { tokens_[count++] = {z[lane], w[lane]}; });
    });
    return nucleus(tokens_, count, mass);
  }

  Floats weight_of(Floats z) const { return fastdiff::cpu::weight(below(z, broadcast(largest_)), broadcast(scale_)); }

  // Of larger logits the bucket is no higher.
  Ints bucket_of(Floats z) const {
    const Floats octaves = below(z, broadcast(largest_)) * broadcast(scale_);
    const Floats place = min(octaves * broadcast(-kPerOctave), broadcast(kBuckets - 1));
    return __builtin_convertvector(place, Ints);
  }

  // Every stretch's sums of what is left, and the row's.
  Law weigh_all() {
    int64_t equal = 0;
    alignas(64) float weights[kStretch];
    for (int64_t s = 0; s < sums_.count; ++s) {
      sums_.drawn[s] = sums_.drawn_moment[s] = 0;
      equal_before_[s] = static_cast<int32_t>(equal);
      if (sums_.largest[s] < cut_.least || sums_.largest[s] == -kInfinity) continue;
      const Stretch stretch = reader_.read(s * kStretch);
      weigh(stretch, s, weights);
      Floats sum{}, moment{};
      for (int64_t i = 0; i < stretch.padded; i += kLanes) {
        const Floats z = load(stretch.z + i), w = load(weights + i);
        sum += w, moment = fma(w, below(z, broadcast(sums_.largest[s])), moment);
        if (cut_.equal < kAll) equal += __builtin_popcount(lanes_of(z == broadcast(cut_.least)));
      }
      sums_.drawn[s] = static_cast<float>(sum_of(sum)), sums_.drawn_moment[s] = static_cast<float>(sum_of(moment));
    }
    return merge(sums_, sums_.drawn, sums_.drawn_moment, largest_, scale_);
  }

  const TokenStats& t_;
  TokenReader<S>& reader_;
  StretchSums& sums_;
  bool by_count_, by_mass_;
  float largest_, scale_;
  Cut cut_;
  WeighedToken* tokens_;
  int32_t* equal_before_;  // tokens at the cut before each stretch
};

}  // namespace
}  // namespace fastdiff::cpu
