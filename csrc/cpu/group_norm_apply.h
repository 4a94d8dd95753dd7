// y = act((x + offset) a + b), with the three numbers of each channel. Internal linkage: see convert.h.
#pragma once

#include <algorithm>
#include <cmath>

#include "../group_norm.h"
#include "moments.h"
#include "rows.h"
#include "silu.h"

namespace fastdiff::cpu {
namespace {

// [n] channels from `first` on, `otherwise` where absent.
inline void fetch(const ChannelValues& v, int64_t sample, int64_t first, int64_t n, float otherwise, float* to) {
  if (v.data == nullptr) return std::fill(to, to + n, otherwise), void();
  load_run(Operand{const_cast<void*>(v.data), v.dtype, {}}, sample * v.row + first, 1, n, to);
}

struct Line {
  float *offset, *a, *b;
};

constexpr int kBatch = 64;  // channels whose numbers are made at once

// The numbers of `n` channels of one group. What offset loses in rounding to float goes into b.
inline void make_line(const GroupNorm& norm, const Moments& moments, int64_t sample, int64_t first, int64_t n, Line to) {
  const double rstd = 1 / std::sqrt(moments.m2 / moments.count + norm.eps);
  float weight[kBatch], bias[kBatch], add[kBatch], scale[kBatch], shift[kBatch];
  for (int64_t done = 0; done < n; done += kBatch) {
    const int64_t c = first + done, count = std::min<int64_t>(kBatch, n - done);
    fetch(norm.weight, 0, c, count, 1, weight), fetch(norm.bias, 0, c, count, 0, bias);
    fetch(norm.add, sample, c, count, 0, add);
    fetch(norm.scale, sample, c, count, 0, scale), fetch(norm.shift, sample, c, count, 0, shift);
    for (int64_t i = 0; i < count; ++i) {
      const double by = add[i] - moments.mean, factor = 1.0 + scale[i], a = rstd * weight[i] * factor;
      const float offset = static_cast<float>(by);
      const double lost = std::isfinite(by) ? by - offset : 0;
      to.offset[done + i] = offset, to.a[done + i] = static_cast<float>(a);
      to.b[done + i] = static_cast<float>(bias[i] * factor + shift[i] + lost * a);
    }
  }
}

template <bool kSilu>
inline Floats activated(Floats x, Floats offset, Floats a, Floats b) {
  const Floats h = mad(x + offset, a, b);
  return kSilu ? silu(h) : h;
}

// One channel's run of n elements.
template <bool kSilu, class T>
void apply_run(const T* x, int64_t n, float offset, float a, float b, T* y) {
  const Floats o = spread(offset), av = spread(a), bv = spread(b);
  each_vector(n, [&](int64_t i, auto filled) {
    store(y + i, activated<kSilu>(load(x + i, filled), o, av, bv), filled);
  });
}

// Rows [rows, channels].
template <bool kSilu, class T>
void apply_rows(const T* x, int64_t rows, int64_t channels, Line line, T* y) {
  for (int64_t r = 0; r < rows; ++r, x += channels, y += channels) {
    each_vector(channels, [&](int64_t c, auto filled) {
      const Floats offset = load(line.offset + c, filled), a = load(line.a + c, filled), b = load(line.b + c, filled);
      store(y + c, activated<kSilu>(load(x + c, filled), offset, a, b), filled);
    });
  }
}

}  // namespace
}  // namespace fastdiff::cpu
