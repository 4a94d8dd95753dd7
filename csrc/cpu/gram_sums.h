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

// A vector as a stretch of memory, or as wa a + wb b.
template <class T>
struct Source {
  const T *a, *b;
  T wa, wb;
};

constexpr int kMaxPairs = 2;  // vectors of the second kind, which come first

// Adds those of n elements of N vectors, kPairs of them pairs, to sums, in the order of products(gram). n is at most
// kShortSum: a lane sums a few dozen products in the compute type. More than one set of sums where N leaves registers
// for it, so that no addition waits for the one before.
template <int N, int kPairs, class T>
void add_products(const Source<T>* given, int64_t n, double* sums) {
  using V = typename Vector<T>::type;
  constexpr int kSets = N == 1 ? 4 : N == 2 ? 2 : 1, kProducts = N * (N + 1) / 2 + N, kCount = sizeof(V) / sizeof(T);
  Source<T> from[N];
  for (int i = 0; i < N; ++i) from[i] = given[i];
  V sum[kSets][kProducts] = {};
  int64_t e = 0;
  for (; e + kSets * kCount <= n; e += kSets * kCount) {
#pragma GCC unroll 4
    for (int set = 0; set < kSets; ++set) {
      V v[N];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        const int64_t at = e + set * kCount;
        v[i] = load(from[i].a + at);
        if (i < kPairs) v[i] = fma(V{} + from[i].wb, load(from[i].b + at), (V{} + from[i].wa) * v[i]);
      }
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
    double v[N];
    for (int i = 0; i < N; ++i) {
      v[i] = i < kPairs ? fma(from[i].wb, from[i].b[e], from[i].wa * from[i].a[e]) : from[i].a[e];
    }
    int k = 0;
    for (int i = 0; i < N; ++i) {
      for (int j = i; j < N; ++j, ++k) sums[k] += v[i] * v[j];
      sums[k++] += v[i];
    }
  }
}

template <int N, class T>
void add_products(int pairs, const Source<T>* from, int64_t n, double* sums) {
  if constexpr (N > 1) {
    if (pairs == 2) return add_products<N, 2>(from, n, sums);
  }
  pairs == 0 ? add_products<N, 0>(from, n, sums) : add_products<N, 1>(from, n, sums);
}

template <class T>
void add_products(int count, int pairs, const Source<T>* from, int64_t n, double* sums) {
  switch (count) {
    case 1: return add_products<1>(pairs, from, n, sums);
    case 2: return add_products<2>(pairs, from, n, sums);
    case 3: return add_products<3>(pairs, from, n, sums);
    default: return add_products<4>(pairs, from, n, sums);
  }
}

}  // namespace
}  // namespace fastdiff::cpu
