// The inner products of a stretch of vectors with each other and with 1. Internal linkage: see kernels.h.
#pragma once

#include "../gram.h"
#include "sums.h"

namespace fastdiff::cpu {
namespace {

template <class T>
struct Vector {
  using type = Floats;
};
template <>
struct Vector<double> {
  using type = Doubles;
};

inline Doubles load(const double* from) {
  Doubles v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Doubles fma(Doubles a, Doubles b, Doubles c) { return a * b + c; }

// Adds those of n elements of N vectors to sums, in the order of products(gram). n is at most kShortSum: a lane sums a
// few dozen products in the compute type. More than one set of sums where N leaves registers for it, so that no
// addition waits for the one before.
template <int N, class T>
void add_products(const T* const* vectors, int64_t n, double* sums) {
  using V = typename Vector<T>::type;
  constexpr int kSets = N == 1 ? 4 : N == 2 ? 2 : 1, kProducts = N * (N + 1) / 2 + N;
  V sum[kSets][kProducts] = {};
  int64_t e = 0;
  for (; e + kSets * kLanes <= n; e += kSets * kLanes) {
#pragma GCC unroll 4
    for (int set = 0; set < kSets; ++set) {
      V v[N];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) v[i] = load(vectors[i] + e + set * kLanes);
      int k = 0;
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
        for (int j = i; j < N; ++j, ++k) sum[set][k] = fma(v[i], v[j], sum[set][k]);
        sum[set][k] += v[i], ++k;
      }
    }
  }
  for (int k = 0; k < kProducts; ++k) {
    for (int set = 0; set < kSets; ++set) sums[k] += sum_of(sum[set][k]);
  }
  for (; e < n; ++e) {
    int k = 0;
    for (int i = 0; i < N; ++i) {
      const double v = vectors[i][e];
      for (int j = i; j < N; ++j, ++k) sums[k] += v * vectors[j][e];
      sums[k++] += v;
    }
  }
}

template <class T>
void add_products(int count, const T* const* vectors, int64_t n, double* sums) {
  switch (count) {
    case 1: return add_products<1>(vectors, n, sums);
    case 2: return add_products<2>(vectors, n, sums);
    case 3: return add_products<3>(vectors, n, sums);
    default: return add_products<4>(vectors, n, sums);
  }
}

}  // namespace
}  // namespace fastdiff::cpu
