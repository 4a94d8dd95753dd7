// attention between some queries and a block of keys, in three steps: logits, weights, weighted values. A lane is a
// query: keys and values are read as they are, element by element against vectors of queries, so no head size and no
// number of keys wastes work, and a softmax stays in its lane. Internal linkage: see kernels.h.
#pragma once

#include <cmath>
#include <type_traits>

#include "exp2.h"

namespace fastdiff::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxVectors = 4, kTile = 6;  // registers: kMaxVectors * kTile sums, kMaxVectors operands, one factor
#else
constexpr int kMaxVectors = 2, kTile = 6;
#endif
constexpr int kPanel = kMaxVectors * kLanes;  // queries that go through the keys together
constexpr int64_t kLongestSum = 160;  // of products in float, in one chain: longer ones lose digits
constexpr float kLog2e = 1.44269504f;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(Constant<n>) for a small n known at run time.
template <int kMaxMagnitude, class F>
inline void with_constant(int n, F f) {
  if constexpr (kMaxMagnitude > 1) {
    if (n < kMaxMagnitude) return with_constant<kMaxMagnitude - 1>(n, f);
  }
  f(Constant<kMaxMagnitude>());
}

// f(row, Constant<count>) over all rows, kTile at a time.
template <class F>
inline void for_each_tile(int64_t rows, F f) {
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
      const Floats by = broadcast(factor[r * row + i * column]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(operand[v], by, sum[r][v]);
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
  Floats row_max[kMaxVectors];  // the largest logit so far
  Floats row_sum[kMaxVectors];  // of weights relative to it
};

// The logits of a block of keys as [keys][kVectors] vectors; `row_max` grows to their largest. Compiled once, and not
// into the kernel of each dtype; as add_values.
template <int kVectors>
__attribute__((noinline)) void logits(const Panel& panel, Rows k, int64_t keys, int64_t size, float* to,
                                      Floats* row_max) {
  Floats largest[kVectors];
  for (int v = 0; v < kVectors; ++v) largest[v] = row_max[v];
  for_each_tile(keys, [&](int64_t key, auto count) {
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
        largest[v] = max(sum[r][v], largest[v]);
      }
    }
  });
  for (int v = 0; v < kVectors; ++v) row_max[v] = largest[v];
}

// Logits become weights relative to `row_max`, 2^(scale (logit - row_max)); what came before is to be rescaled by a
// factor. The scale enters after the difference, so that rounding is relative to it, and no weight is more than 1,
// however large logits are.
template <int kVectors>
void exponentiate(Panel& panel, const Floats* row_max, float scale, int64_t keys, float* weights, Floats* rescale,
                  bool first) {
  Floats origin[kVectors], sum[kVectors];
  const Floats by = broadcast(scale);
  for (int v = 0; v < kVectors; ++v) {
    origin[v] = row_max[v] == broadcast(-INFINITY) ? Floats{} : row_max[v];
    rescale[v] = first ? Floats{} : exp2_of_negative((panel.row_max[v] - origin[v]) * by);
    panel.row_max[v] = row_max[v];
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
  for (int v = 0; v < kVectors; ++v) panel.row_sum[v] = fma(panel.row_sum[v], rescale[v], sum[v]);
}

// The sum of weighted values so far, rescaled, and that of a block of keys.
template <int kVectors>
__attribute__((noinline)) void add_values(Panel& panel, Rows v, int64_t keys, int64_t size, const float* weights,
                                          const Floats* rescale, bool first) {
  for_each_tile(size, [&](int64_t column, auto count) {
    constexpr int kRows = decltype(count)::value;
    Floats sum[kRows][kVectors];
    multiply(weights, keys, v.data + column, 1, v.stride, sum);
    float* to = panel.out + column * kVectors * kLanes;
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kVectors; ++i, to += kLanes) {
      const Floats fresh = sum[i / kVectors][i % kVectors];
      store(to, first ? fresh : fma(load(to), rescale[i % kVectors], fresh));
    }
  });
}

}  // namespace
}  // namespace fastdiff::cpu
