// The moments of groups in one pass. Deviations are taken from a pivot near the mean, so that a large mean costs no
// digits: the mean of the first few elements will do, since all that counts is that the variance is not small beside
// the square of what is left. They are summed in float, as vectors, over stretches too short to lose digits; stretches
// are summed or merged in double. The order depends on the shape alone, so results do not depend on threads. Internal
// linkage: see kernels.h.
#pragma once

#include <algorithm>

#include "moments.h"
#include "rows.h"
#include "sums.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kStretch = 8192;  // elements that are summed in float
constexpr int64_t kFirst = 64;      // elements or so whose mean is the first pivot
constexpr int kUnroll = 4;          // vectors in flight

inline Floats together(const Floats (&v)[kUnroll]) { return (v[0] + v[1]) + (v[2] + v[3]); }

// Sums over elements that lie next to each other, run by run. What a run's offset loses in rounding to float is common
// to its elements, so that their sums can make it good.
struct Deviations {
  Floats sum{}, squares{};
  double tail_sum = 0, tail_squares = 0;
  int64_t count = 0;

  template <class T>
  void add(const T* x, int64_t n, double by) {
    const float offset = static_cast<float>(by);
    const Floats offsets = broadcast(offset);
    Floats s[kUnroll] = {}, q[kUnroll] = {};
    int64_t i = 0;
    for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += 2) {
        Floats v[2];
        load_in_any_order(x + i + u * kLanes, v);
        const Floats d = v[0] + offsets, e = v[1] + offsets;
        s[u] += d, q[u] = fma(d, d, q[u]);
        s[u + 1] += e, q[u + 1] = fma(e, e, q[u + 1]);
      }
    }
    for (; i + kLanes <= n; i += kLanes) {
      const Floats d = load(x + i) + offsets;
      s[0] += d, q[0] = fma(d, d, q[0]);
    }
    const Floats lost = broadcast(static_cast<float>(by - offset)), before = together(s);
    const Floats after = before + lost * broadcast(static_cast<float>(i / kLanes));
    sum += after, squares += fma(lost, before + after, together(q));
    for (; i < n; ++i) {
      const double d = widen(x[i]) + by;
      tail_sum += d, tail_squares += d * d;
    }
    count += n;
  }

  Moments about(double pivot) const {
    return moments_about(pivot, static_cast<double>(count), tail_sum + sum_of(sum), tail_squares + sum_of(squares));
  }
};

// A pivot of x + add. Of x alone one in float is as good, and then no offset is rounded.
inline double pivot_near(double mean, bool added) { return added ? mean : static_cast<float>(mean); }

// The moments of x + add over `channels` runs of `positions` elements; add is null or [channels].
template <class T>
Moments moments_of_runs(const T* x, int64_t channels, int64_t positions, const float* add) {
  if (add == nullptr) positions *= channels, channels = 1;
  const auto added = [&](int64_t c) -> double { return add ? add[c] : 0; };
  Deviations first;
  first.add(x, std::min(positions, kFirst), 0);
  double pivot = pivot_near(first.about(0).mean + added(0), add);
  Moments all;
  Deviations stretch;
  const auto take_in = [&] {
    merge(all, stretch.about(pivot));
    stretch = {};
    pivot = pivot_near(all.mean, add);
  };
  for (int64_t c = 0; c < channels; ++c, x += positions) {
    for (int64_t p = 0; p < positions; p += kStretch) {
      stretch.add(x + p, std::min(kStretch, positions - p), added(c) - pivot);
      if (stretch.count >= kStretch) take_in();
    }
  }
  if (stretch.count > 0) take_in();
  return all;
}

constexpr int64_t kRows = 8;     // rows that are taken at once, each a stream of its own to the prefetcher
constexpr int64_t kFlush = 256;  // rows that are summed in float

// Adds the deviations of N rows of `channels`, `stride` apart, from the pivots to sum and squares [channels].
template <int N, class T>
void add_rows(const T* x, int64_t stride, int64_t channels, const float* pivot, float* sum, float* squares) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Floats by = load(pivot + c);
    Floats s = load(sum + c), q = load(squares + c);
    for (int r = 0; r < N; ++r) {
      const Floats d = load(x + r * stride + c) - by;
      s += d, q = fma(d, d, q);
    }
    store(sum + c, s), store(squares + c, q);
  }
  for (; c < channels; ++c) {
    for (int r = 0; r < N; ++r) {
      const float d = widen(x[r * stride + c]) - pivot[c];
      sum[c] += d, squares[c] = fma(d, d, squares[c]);
    }
  }
}

template <class T>
void add_rows(const T* x, int64_t rows, int64_t stride, int64_t channels, const float* pivot, float* sum,
              float* squares) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) add_rows<kRows>(x + r * stride, stride, channels, pivot, sum, squares);
  for (; r + 2 <= rows; r += 2) add_rows<2>(x + r * stride, stride, channels, pivot, sum, squares);
  for (; r < rows; ++r) add_rows<1>(x + r * stride, stride, channels, pivot, sum, squares);
}

// The sum of n values, four at a time, so that no addition waits for the one before.
inline double sum_of(const float* values, int64_t n) {
  double sum[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int u = 0; u < 4; ++u) sum[u] += values[i + u];
  }
  for (; i < n; ++i) sum[0] += values[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// What moments_of_rows works in: [channels], and [groups] of doubles.
struct Columns {
  float *pivot, *lost, *sum, *squares;  // lost: what rounding to float has taken from the pivot
  double *total, *total_squares;
};

// The moments of `groups` groups of `size` channels of x + add over rows `stride` apart; add is null or [channels].
template <class T>
void moments_of_rows(const T* x, int64_t rows, int64_t stride, int64_t groups, int64_t size, const float* add,
                     const Columns& in, Moments* out) {
  const int64_t channels = groups * size, first = std::clamp<int64_t>(kFirst / size, 1, rows);
  const auto sums_of = [&](const T* from, int64_t count) {
    std::fill(in.sum, in.sum + channels, 0), std::fill(in.squares, in.squares + channels, 0);
    add_rows(from, count, stride, channels, in.pivot, in.sum, in.squares);
  };
  std::fill(in.pivot, in.pivot + channels, 0);
  sums_of(x, first);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size, end = begin + size;
    const double added = add ? sum_of(add + begin, size) : 0, taken = static_cast<double>(first);
    const double pivot = pivot_near((sum_of(in.sum + begin, size) / taken + added) / static_cast<double>(size), add);
    for (int64_t c = begin; c < end; ++c) {
      const double own = add ? pivot - add[c] : pivot;
      in.pivot[c] = static_cast<float>(own), in.lost[c] = static_cast<float>(in.pivot[c] - own);
    }
    out[g].mean = pivot, in.total[g] = in.total_squares[g] = 0;
  }
  for (int64_t r = 0; r < rows; r += kFlush) {
    const int64_t taken = std::min(kFlush, rows - r);
    sums_of(x + r * stride, taken);
    if (add) {
      for (int64_t c = 0; c < channels; ++c) {
        const float lost = in.lost[c], before = in.sum[c], after = before + static_cast<float>(taken) * lost;
        in.sum[c] = after, in.squares[c] += lost * (before + after);
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      in.total[g] += sum_of(in.sum + g * size, size), in.total_squares[g] += sum_of(in.squares + g * size, size);
    }
  }
  const double count = static_cast<double>(rows * size);
  for (int64_t g = 0; g < groups; ++g) out[g] = moments_about(out[g].mean, count, in.total[g], in.total_squares[g]);
}

}  // namespace
}  // namespace fastdiff::cpu
