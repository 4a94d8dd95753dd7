// Rows of any dtype and length, vector by vector. Internal linkage: see kernels.h.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

// How many lanes of a vector a row fills: all of them, or fewer because the whole row is shorter.
struct Full {};
struct Partial {
  int64_t lanes;
};

template <class T>
inline Floats load(const T* from, Full) {
  return load(from);
}

template <class T>
inline Floats load(const T* from, Partial part) {
  Floats v{};
  for (int64_t i = 0; i < part.lanes; ++i) v[i] = widen(from[i]);
  return v;
}

template <class T>
inline void store(T* to, Floats v, Full) {
  store(to, v);
}

template <class T>
inline void store(T* to, Floats v, Partial part) {
  for (int64_t i = 0; i < part.lanes; ++i) narrow(v[i], to[i]);
}

// f(first, filled) over vectors that cover a row; the last one reaches back over the one before.
template <class F>
inline void for_each_vector(int64_t size, F f) {
  if (size < kLanes) return f(0, Partial{size});
  for (int64_t d = 0; d < size; d += kLanes) f(d + kLanes <= size ? d : size - kLanes, Full());
}

}  // namespace
}  // namespace fastdiff::cpu
