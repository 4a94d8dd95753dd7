// attention between some queries and a block of keys, in three steps: logits, weights, weighted values. A lane is a
// query: keys and values are read as they are, element by element against vectors of queries, so no head size and no
// number of keys wastes work, and a softmax stays in its lane. Internal linkage: see convert.h.
#pragma once

#include <cmath>
#include <type_traits>

#include "exp2.h"

namespace fastdiff::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kMostVectors = 4, kTile = 6;  // registers: kMostVectors * kTile sums, kMostVectors operands, one factor
#else
constexpr int kMostVectors = 2, kTile = 6;
#endif
constexpr int kPanel = kMostVectors * kLanes;  // queries that go through the keys together
constexpr int64_t kLongestSum = 160;  // of products in float: longer ones lose digits
constexpr float kLog2e = 1.44269504f;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(Constant<n>) for a small n known at run time.
template <int kMost, class F>
inline void with_constant(int n, F f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(Constant<kMost>());
}

// f(row, Constant<count>) over all rows, kTile at a time.
template <class F>
inline void each_tile(int64_t rows, F f) {
  int64_t row = 0;
  for (; row + kTile <= rows; row += kTile) f(row, Constant<kTile>());
  if (row < rows) with_constant<kTile - 1>(static_cast<int>(rows - row), [&](auto count) { f(row, count); });
}

// sum[r][.] = sum over i < n of factor[r * row + i * column] * x[i][.]
template <int kVectors, int kRows>
inline __attribute__((always_inline)) void multiply(const float* x, int64_t n, const float* factor, int64_t row,
                                                    int64_t column, Floats (&sum)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Floats{};
  }
  for (int64_t i = 0; i < n; ++i) {
    Floats operand[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) operand[v] = load(x + (i * kVectors + v) * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats by = spread(factor[r * row + i * column]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] = mad(operand[v], by, sum[r][v]);
    }
  }
}

// Keys or values of a block as float.
struct Rows {
  const float* data;
  int64_t stride;
};

// Up to kPanel queries on their way through the keys: q and the sum of weighted values are [head_size][vectors].
struct Panel {
  float *q, *out;
  Floats top[kMostVectors], weight[kMostVectors];  // the largest logit so far, and the sum of weights relative to it
};

// The logits of a block of keys as [keys][kVectors] vectors; `top` grows to their largest.
template <int kVectors>
void logits(const Panel& panel, Rows k, int64_t keys, int64_t size, float* to, Floats* top) {
  Floats largest[kVectors];
  for (int v = 0; v < kVectors; ++v) largest[v] = top[v];
  each_tile(keys, [&](int64_t key, auto count) {
    constexpr int kRows = decltype(count)::value;
    const float* factor = k.data + key * k.stride;
    Floats sum[kRows][kVectors];
    multiply(panel.q, size < kLongestSum ? size : kLongestSum, factor, k.stride, 1, sum);
    for (int64_t d = kLongestSum; d < size; d += kLongestSum) {
      Floats more[kRows][kVectors];
      const int64_t terms = size - d < kLongestSum ? size - d : kLongestSum;
      multiply(panel.q + d * kVectors * kLanes, terms, factor + d, k.stride, 1, more);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] += more[r][v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        store(to + ((key + r) * kVectors + v) * kLanes, sum[r][v]);
        largest[v] = larger(sum[r][v], largest[v]);
      }
    }
  });
  for (int v = 0; v < kVectors; ++v) top[v] = largest[v];
}

// Logits become weights relative to `top`, 2^(scale (logit - top)); what came before decays by a factor. The scale
// enters after the difference, so that rounding is relative to it, and no weight is more than 1, however large logits are.
template <int kVectors>
void weigh(Panel& panel, const Floats* top, float scale, int64_t keys, float* weights, Floats* decay, bool first) {
  Floats origin[kVectors], sum[kVectors];
  const Floats by = spread(scale);
  for (int v = 0; v < kVectors; ++v) {
    origin[v] = top[v] == spread(-INFINITY) ? Floats{} : top[v];
    decay[v] = first ? Floats{} : exp2_of_negative((panel.top[v] - origin[v]) * by);
    panel.top[v] = top[v];
    sum[v] = Floats{};
  }
  for (int64_t key = 0; key < keys; ++key) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      float* at = weights + (key * kVectors + v) * kLanes;
      const Floats weight = exp2_of_negative((load(at) - origin[v]) * by);
      sum[v] += weight;
      store(at, weight);
    }
  }
  for (int v = 0; v < kVectors; ++v) panel.weight[v] = mad(panel.weight[v], decay[v], sum[v]);
}

// The sum of weighted values so far, decayed, and that of a block of keys.
template <int kVectors>
void add_values(Panel& panel, Rows v, int64_t keys, int64_t size, const float* weights, const Floats* decay,
                bool first) {
  each_tile(size, [&](int64_t column, auto count) {
    constexpr int kRows = decltype(count)::value;
    Floats sum[kRows][kVectors];
    multiply(weights, keys, v.data + column, 1, v.stride, sum);
    float* to = panel.out + column * kVectors * kLanes;
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kVectors; ++i, to += kLanes) {
      const Floats fresh = sum[i / kVectors][i % kVectors];
      store(to, first ? fresh : mad(load(to), decay[i % kVectors], fresh));
    }
  });
}

}  // namespace
}  // namespace fastdiff::cpu
