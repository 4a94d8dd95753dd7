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
  const double rstd = 1 / std::sqrt(moments.m2 / moments.count + static_cast<double>(norm.eps));
  float weight[kBatch], bias[kBatch], add[kBatch], scale[kBatch], shift[kBatch];
  for (int64_t done = 0; done < n; done += kBatch) {
    const int64_t c = first + done, count = std::min<int64_t>(kBatch, n - done);
    fetch(norm.weight, 0, c, count, 1, weight), fetch(norm.bias, 0, c, count, 0, bias);
    fetch(norm.add, sample, c, count, 0, add);
    fetch(norm.scale, sample, c, count, 0, scale), fetch(norm.shift, sample, c, count, 0, shift);
    for (int64_t i = 0; i < count; ++i) {
      const double by = add[i] - moments.mean, factor = 1.0 + scale[i], a = rstd * weight[i] * factor;
      const float offset = static_cast<float>(by);
      to.offset[done + i] = offset, to.a[done + i] = static_cast<float>(a);
      to.b[done + i] = static_cast<float>(bias[i] * factor + shift[i] + (by - offset) * a);
    }
  }
}

constexpr int kTogether = kVector == 64 ? 4 : 2;  // vectors, as many as there are registers for

// N vectors: x, offset, a and b are asked for by number, as functions of it.
template <bool kSilu, int N, class T, class Filled, class Offset, class A, class B>
inline void apply(const T* x, T* y, Filled filled, Offset offset, A a, B b) {
  Floats h[N];
  for (int u = 0; u < N; ++u) h[u] = mad(load(x + u * kLanes, filled) + offset(u), a(u), b(u));
  if constexpr (kSilu) silu<sizeof(T) == 4>(h);
  for (int u = 0; u < N; ++u) store(y + u * kLanes, h[u], filled);
}

// Calls f(first, number of vectors, filled) until n elements are covered; the last vector may reach back.
template <class F>
inline void each_bunch(int64_t n, F f) {
  constexpr std::integral_constant<int, kTogether> many{};
  constexpr std::integral_constant<int, 1> one{};
  int64_t i = 0;
  for (; i + kTogether * kLanes <= n; i += kTogether * kLanes) f(i, many, Whole());
  for (; i + kLanes <= n; i += kLanes) f(i, one, Whole());
  if (i == n) return;
  n < kLanes ? f(0, one, Part{n}) : f(n - kLanes, one, Whole());
}

// One channel's run of n elements.
template <bool kSilu, class T>
void apply_run(const T* x, int64_t n, float offset, float a, float b, T* y) {
  const Floats o = spread(offset), av = spread(a), bv = spread(b);
  each_bunch(n, [&](int64_t i, auto vectors, auto filled) {
    apply<kSilu, vectors.value>(
        x + i, y + i, filled, [&](int) { return o; }, [&](int) { return av; }, [&](int) { return bv; });
  });
}

// Rows [rows, channels].
template <bool kSilu, class T>
void apply_rows(const T* x, int64_t rows, int64_t channels, Line line, T* y) {
  for (int64_t r = 0; r < rows; ++r, x += channels, y += channels) {
    each_bunch(channels, [&](int64_t c, auto vectors, auto filled) {
      const auto at = [&](const float* from) {
        return [=](int u) { return load(from + c + u * kLanes, filled); };
      };
      apply<kSilu, vectors.value>(x + c, y + c, filled, at(line.offset), at(line.a), at(line.b));
    });
  }
}

}  // namespace
}  // namespace fastdiff::cpu
