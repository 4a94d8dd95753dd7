// A row of final logits in float32, stretch by stretch. Internal linkage: see kernels.h.
#pragma once

#include "../token_stats.h"
#include "lanes.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kStretch = 1024;             // tokens whose weights are summed in float32
constexpr int64_t kTogether = 4 * kLanes;      // that loops take at once
constexpr float kInfinity = __builtin_inff();

// [begin, begin + count) of the row: `padded` logits, a multiple of kTogether, -inf behind the row's end.
struct Stretch {
  const float* z;
  int64_t begin, count, padded;
  uintptr_t next;  // where the logits behind them lie, in memory
};

template <class S>
class TokenReader {
 public:
  explicit TokenReader(const TokenStats& stats) : t_(stats) {}

  void set_row(int64_t row) {
    const int64_t sample = row / t_.length, position = row % t_.length;
    logits_ = at(t_.logits, sample, position);
    uncond_ = t_.uncond.data ? at(t_.uncond, sample, position) : nullptr;
    guidance_ = uncond_ ? static_cast<float>(t_.guidance[sample]) : 0;
    shifted_ = t_.shift ? t_.current[row] : -1;
    shift_ = t_.shift ? static_cast<float>(t_.shift[sample]) : 0;
  }

  // Valid until the next call.
  Stretch read(int64_t begin) {
    const int64_t left = t_.vocabulary - begin, n = left < kStretch ? left : kStretch;
    const int64_t padded = (n + kTogether - 1) / kTogether * kTogether;
    const auto next = reinterpret_cast<uintptr_t>(logits_ + begin + n);
    if constexpr (sizeof(S) == sizeof(float)) {
      if (!uncond_ && n == padded && !is_changed(begin, n)) return {logits_ + begin, begin, n, padded, next};
    }
    int64_t i = 0;
    if (uncond_) {
      for (; i + kLanes <= n; i += kLanes) store(copy_ + i, guided(load(logits_ + begin + i), load(uncond_ + begin + i)));
      for (; i < n; ++i) copy_[i] = guided(widen(logits_[begin + i]), widen(uncond_[begin + i]));
    } else {
      for (; i + kLanes <= n; i += kLanes) store(copy_ + i, load(logits_ + begin + i));
      for (; i < n; ++i) copy_[i] = widen(logits_[begin + i]);
    }
    for (; i < padded; ++i) copy_[i] = -kInfinity;
    change(begin, n);
    return {copy_, begin, n, padded, next};
  }

 private:
  const S* at(const Logits& logits, int64_t sample, int64_t position) const {
    return static_cast<const S*>(logits.data) + sample * logits.stride[0] + position * logits.stride[1];
  }

  // z_u + g (z_c - z_u); what one of them forbids is forbidden.
  Floats guided(Floats c, Floats u) const {
    const Floats none = broadcast(-kInfinity), z = u + broadcast(guidance_) * (c - u);
    return (c == none) | (u == none) ? none : z;
  }

  float guided(float c, float u) const {
    return c == -kInfinity || u == -kInfinity ? -kInfinity : u + guidance_ * (c - u);
  }

  static bool is_in(int64_t token, int64_t begin, int64_t n) { return token >= begin && token < begin + n; }

  bool is_changed(int64_t begin, int64_t n) const {
    bool changed = is_in(shifted_, begin, n);
    for (int k = 0; k < t_.excluded; ++k) changed = changed || is_in(t_.exclude[k], begin, n);
    return changed;
  }

  void change(int64_t begin, int64_t n) {
    if (is_in(shifted_, begin, n)) copy_[shifted_ - begin] += shift_;
    for (int k = 0; k < t_.excluded; ++k) {
      if (is_in(t_.exclude[k], begin, n)) copy_[t_.exclude[k] - begin] = -kInfinity;
    }
  }

  const TokenStats& t_;
  const S *logits_, *uncond_;
  float guidance_, shift_;
  int64_t shifted_;
  alignas(64) float copy_[kStretch];
};

}  // namespace
}  // namespace fastdiff::cpu
