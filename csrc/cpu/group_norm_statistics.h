// The moments of groups. Deviations are taken from a pivot near the mean and summed in float over short stretches, so
// that neither a large mean nor many elements cost digits. Internal linkage: see convert.h.
#pragma once

#include <algorithm>

#include "moments.h"
#include "rows.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kStretch = 8192;  // elements that are summed in float
constexpr int64_t kFirst = 256;     // elements whose mean is the first pivot
constexpr int kUnroll = 4;          // vectors in flight

inline double sum_of(const Floats (&v)[kUnroll]) {
  const Floats all = (v[0] + v[1]) + (v[2] + v[3]);
  double sum[2] = {};
  for (int i = 0; i < kLanes; i += 2) sum[0] += all[i], sum[1] += all[i + 1];
  return sum[0] + sum[1];
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
    const double s = odd_sum + sum_of(sum), q = odd_squares + sum_of(squares);
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

constexpr int64_t kRows = 4;     // rows that are taken at once, each a stream of its own to the prefetcher
constexpr int64_t kFlush = 64;   // rows that are summed in float

// Adds the deviations of N rows [N, channels] from the pivots to sum and squares [channels].
template <int N, class T>
void add_rows(const T* x, int64_t channels, const float* pivot, float* sum, float* squares) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Floats by = load(pivot + c);
    Floats s = load(sum + c), q = load(squares + c);
    for (int r = 0; r < N; ++r) {
      const Floats d = load(x + r * channels + c) - by;
      s += d, q = mad(d, d, q);
    }
    store(sum + c, s), store(squares + c, q);
  }
  for (; c < channels; ++c) {
    for (int r = 0; r < N; ++r) {
      const float d = widen(x[r * channels + c]) - pivot[c];
      sum[c] += d, squares[c] = mad(d, d, squares[c]);
    }
  }
}

template <class T>
void add_rows(const T* x, int64_t rows, int64_t channels, const float* pivot, float* sum, float* squares) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) add_rows<kRows>(x + r * channels, channels, pivot, sum, squares);
  for (; r < rows; ++r) add_rows<1>(x + r * channels, channels, pivot, sum, squares);
}

// What sums_of_columns works in, [channels] each.
struct Columns {
  float *pivot, *sum, *squares;
  double *total, *total_squares;
};

// Sums of every channel's deviations over x [rows, channels], from pivots that are set here.
template <class T>
void sums_of_columns(const T* x, int64_t rows, int64_t channels, const Columns& to) {
  const int64_t first = std::min<int64_t>(rows, 16);
  const auto clear = [&](auto* values) { std::fill(values, values + channels, 0); };
  clear(to.pivot), clear(to.sum), clear(to.squares), clear(to.total), clear(to.total_squares);
  add_rows(x, first, channels, to.pivot, to.sum, to.squares);
  for (int64_t c = 0; c < channels; ++c) to.pivot[c] = to.sum[c] / static_cast<float>(first);
  for (int64_t r = 0; r < rows; r += kFlush) {
    clear(to.sum), clear(to.squares);
    add_rows(x + r * channels, std::min(kFlush, rows - r), channels, to.pivot, to.sum, to.squares);
    for (int64_t c = 0; c < channels; ++c) to.total[c] += to.sum[c], to.total_squares[c] += to.squares[c];
  }
}

// The sum of f(c) over the columns, several at a time, so that no addition waits for the one before.
template <class F>
double sum_over(int64_t columns, F f) {
  constexpr int kTogether = 8;
  double sum[kTogether] = {};
  int64_t c = 0;
  for (; c + kTogether <= columns; c += kTogether) {
    for (int u = 0; u < kTogether; ++u) sum[u] += f(c + u);
  }
  for (int u = 0; c < columns; ++c, ++u) sum[u] += f(c);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// The moments of columns whose sums of deviations from pivots these are, with `add` added to each column.
inline Moments moments_of_columns(int64_t columns, int64_t rows, const float* pivot, const float* add,
                                  const double* sum, const double* squares) {
  const double count = static_cast<double>(rows), each = 1 / count;
  const auto mean_of = [=](int64_t c) { return static_cast<double>(pivot[c]) + add[c] + sum[c] * each; };
  const double mean = sum_over(columns, mean_of) / static_cast<double>(columns);
  const double m2 = sum_over(columns, [=](int64_t c) {
    const double off = mean_of(c) - mean;
    return squares[c] - sum[c] * sum[c] * each + off * off * count;
  });
  return {static_cast<double>(columns) * count, mean, m2};
}

}  // namespace
}  // namespace fastdiff::cpu
