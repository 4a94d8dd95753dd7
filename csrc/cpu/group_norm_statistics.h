// The moments of groups. Deviations are taken from a pivot near the mean and summed in float over short stretches, so
// that neither a large mean nor many elements cost digits. Internal linkage: see convert.h.
#pragma once

#include <algorithm>

#include "moments.h"
#include "rows.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kStretch = 8192;   // elements that are summed in float
constexpr int64_t kFirst = 256;      // elements, or rows / 16, whose mean is the first pivot
constexpr int kUnroll = 4;           // vectors in flight

inline double sum_of(Floats v) {
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// Sums over elements that lie next to each other.
struct Deviations {
  Floats sum[kUnroll] = {}, squares[kUnroll] = {};
  double odd_sum = 0, odd_squares = 0;
  int64_t count = 0;

  template <class T>
  void add(const T* x, int64_t n, float offset) {
    const Floats by = spread(offset);
    int64_t i = 0;
    for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
      for (int u = 0; u < kUnroll; ++u) add(u, load(x + i + u * kLanes) + by);
    }
    for (; i + kLanes <= n; i += kLanes) add(0, load(x + i) + by);
    for (; i < n; ++i) {
      const double d = widen(x[i]) + offset;
      odd_sum += d, odd_squares += d * d;
    }
    count += n;
  }

  Moments around(double pivot) const {
    double s = odd_sum, q = odd_squares;
    for (int u = 0; u < kUnroll; ++u) s += sum_of(sum[u]), q += sum_of(squares[u]);
    return Moments::around(pivot, static_cast<double>(count), s, q);
  }

 private:
  void add(int u, Floats d) { sum[u] += d, squares[u] = mad(d, d, squares[u]); }
};

// The moments of x + add over `channels` runs of `positions` elements; add is null or [channels].
template <class T>
Moments moments_of_runs(const T* x, int64_t channels, int64_t positions, const float* add) {
  if (add == nullptr) positions *= channels, channels = 1;
  const auto offset = [&](int64_t c, double pivot) { return static_cast<float>((add ? add[c] : 0) - pivot); };
  Deviations first;
  first.add(x, std::min(positions, kFirst), offset(0, 0));
  float pivot = static_cast<float>(first.around(0).mean);
  Moments all;
  Deviations stretch;
  const auto take_in = [&] {
    all.merge(stretch.around(pivot));
    stretch = {};
    pivot = static_cast<float>(all.mean);
  };
  for (int64_t c = 0; c < channels; ++c, x += positions) {
    for (int64_t p = 0; p < positions; p += kStretch) {
      // The rounding of add - pivot moves this channel's mean by less than its own rounding.
      stretch.add(x + p, std::min(kStretch, positions - p), offset(c, pivot));
      if (stretch.count >= kStretch) take_in();
    }
  }
  if (stretch.count > 0) take_in();
  return all;
}

// Sums of each channel's deviations over rows [rows, channels], into sum and squares [channels].
template <class T, int N, class Filled>
void add_columns(const T* x, int64_t rows, int64_t channels, const float* pivot, double* sum, double* squares,
                 Filled filled) {
  Floats by[N], s[N] = {}, q[N] = {};
  for (int u = 0; u < N; ++u) by[u] = load(pivot + u * kLanes, filled);
  for (int64_t r = 0; r < rows; ++r, x += channels) {
    for (int u = 0; u < N; ++u) {
      const Floats d = load(x + u * kLanes, filled) - by[u];
      s[u] += d, q[u] = mad(d, d, q[u]);
    }
  }
  float own[N * kLanes], own_squares[N * kLanes];
  for (int u = 0; u < N; ++u) store(own + u * kLanes, s[u]), store(own_squares + u * kLanes, q[u]);
  int64_t lanes = N * kLanes;
  if constexpr (std::is_same_v<Filled, Part>) lanes = filled.lanes;
  for (int64_t c = 0; c < lanes; ++c) sum[c] += own[c], squares[c] += own_squares[c];
}

template <class T>
void add_rows(const T* x, int64_t rows, int64_t channels, const float* pivot, double* sum, double* squares) {
  int64_t c = 0;
  for (; c + kUnroll * kLanes <= channels; c += kUnroll * kLanes) {
    add_columns<T, kUnroll>(x + c, rows, channels, pivot + c, sum + c, squares + c, Whole());
  }
  for (; c + kLanes <= channels; c += kLanes) {
    add_columns<T, 1>(x + c, rows, channels, pivot + c, sum + c, squares + c, Whole());
  }
  if (c < channels) {
    add_columns<T, 1>(x + c, rows, channels, pivot + c, sum + c, squares + c, Part{channels - c});
  }
}

// Sums of every channel's deviations from pivots that are set here, over x [rows, channels]: float and double
// [channels] each. `block` rows stay in the first-level cache while channels are taken a few at a time.
template <class T>
void sums_of_columns(const T* x, int64_t rows, int64_t channels, int64_t block, float* pivot, double* sum,
                     double* squares) {
  const int64_t first = std::min<int64_t>(rows, 16);
  std::fill(pivot, pivot + channels, 0.0f), std::fill(sum, sum + channels, 0.0);
  add_rows(x, first, channels, pivot, sum, squares);
  for (int64_t c = 0; c < channels; ++c) pivot[c] = static_cast<float>(sum[c] / static_cast<double>(first));
  std::fill(sum, sum + channels, 0.0), std::fill(squares, squares + channels, 0.0);
  for (int64_t r = 0; r < rows; r += block) {
    add_rows(x + r * channels, std::min(block, rows - r), channels, pivot, sum, squares);
  }
}

// The moments of columns whose sums of deviations from pivots these are, with `add` added to each column.
inline Moments moments_of_columns(int64_t columns, int64_t rows, const float* pivot, const float* add, double* sum,
                                  const double* squares) {
  const double each = 1 / static_cast<double>(rows);
  double mean = 0, m2 = 0;
  for (int64_t c = 0; c < columns; ++c) mean += static_cast<double>(pivot[c]) + add[c] + sum[c] * each;
  mean /= static_cast<double>(columns);
  for (int64_t c = 0; c < columns; ++c) {
    const double off = static_cast<double>(pivot[c]) + add[c] + sum[c] * each - mean;
    m2 += squares[c] - sum[c] * sum[c] * each + off * off * static_cast<double>(rows);
  }
  return {static_cast<double>(columns * rows), mean, m2};
}

}  // namespace
}  // namespace fastdiff::cpu
