// y = act((x + offset) a + b), with the three numbers of each channel. The offset takes the mean away before the
// product, since x a + (b - mean a) would cancel digits where the mean is large. Internal linkage: see kernels.h.
#pragma once

#include <algorithm>
#include <cmath>

#include "../group_norm.h"
#include "moments.h"
#include "rows.h"
#include "silu.h"

namespace fastdiff::cpu {
namespace {

constexpr int kBatch = 64;  // channels whose numbers are made at once
struct Batch {
  float values[kBatch];
};
constexpr Batch constant(float value) {
  Batch batch{};
  for (float& v : batch.values) v = value;
  return batch;
}
constexpr Batch kZeros = constant(0), kOnes = constant(1);

// n channels from `first` on: where they are if that is as floats, else in `room`; `otherwise` where absent.
inline const float* fetch(const ChannelValues& v, int64_t sample, int64_t first, int64_t n, const float* otherwise,
                          float* room) {
  if (v.data == nullptr) return otherwise;
  const int64_t at = sample * v.row + first;
  if (v.dtype == DType::f32) return static_cast<const float*>(v.data) + at;
  load_run(Operand{const_cast<void*>(v.data), v.dtype, {}}, at, 1, n, room);
  return room;
}

struct Affine {
  float *offset, *a, *b;
};

// The numbers of `n` channels of one group. What offset loses in rounding to float goes into b.
inline void make_affine(const GroupNorm& norm, const Moments& moments, int64_t sample, int64_t first, int64_t n,
                        Affine to) {
  const double rstd = 1 / std::sqrt(moments.m2 / moments.count + static_cast<double>(norm.eps));
  Batch rooms[5];
  for (int64_t done = 0; done < n; done += kBatch) {
    const int64_t c = first + done, count = std::min<int64_t>(kBatch, n - done);
    const float* weight = fetch(norm.weight, 0, c, count, kOnes.values, rooms[0].values);
    const float* bias = fetch(norm.bias, 0, c, count, kZeros.values, rooms[1].values);
    const float* add = fetch(norm.add, sample, c, count, kZeros.values, rooms[2].values);
    const float* scale = fetch(norm.scale, sample, c, count, kZeros.values, rooms[3].values);
    const float* shift = fetch(norm.shift, sample, c, count, kZeros.values, rooms[4].values);
    for (int64_t i = 0; i < count; ++i) {
      const double by = add[i] - moments.mean, factor = 1.0 + scale[i], a = rstd * weight[i] * factor;
      const float offset = static_cast<float>(by);
      to.offset[done + i] = offset, to.a[done + i] = static_cast<float>(a);
      to.b[done + i] = static_cast<float>(bias[i] * factor + shift[i] + (by - offset) * a);
    }
  }
}

constexpr int kUnrollApply = kVectorBytes == 64 ? 4 : 2;  // vectors, as many as there are registers for

// Outputs of this size and more are written past the caches: with x they would not stay there until they are read, and
// memory need not be read to be written. From 15 MB on a norm and what comes before and after it take less time so.
// Halves take more arithmetic a byte and wait less for memory.
constexpr int64_t kStreamed = 12 << 20, kStreamedHalves = 32 << 20;

// Whether y is written so, in rows of `row` elements.
inline bool streams(const GroupNorm& norm, int64_t row) {
  const int64_t bytes = element_bytes(norm);
  const bool large = norm.batch * norm.channels * norm.positions * bytes >= (bytes == 4 ? kStreamed : kStreamedHalves);
  return large && row * bytes % kVectorBytes == 0 && reinterpret_cast<uintptr_t>(norm.y) % kVectorBytes == 0;
}

// How y is written, and how many elements behind x lies what is read next and brought into the cache meanwhile.
struct Traffic {
  bool streamed;
  int64_t ahead;
};

// N vectors: offset, a and b are asked for by number, as functions of it.
template <bool kSilu, int N, class T, class Filled, class Offset, class A, class B>
inline void apply(const T* x, T* y, Filled filled, Traffic traffic, Offset offset, A a, B b) {
  for (int u = 0; u < N; ++u) __builtin_prefetch(x + traffic.ahead + u * kLanes, 0, 2);
  Floats h[N];
  for (int u = 0; u < N; ++u) h[u] = fma(load(x + u * kLanes, filled) + offset(u), a(u), b(u));
  if constexpr (kSilu) silu<sizeof(T) == 4>(h);
  if constexpr (N == 1) {
    store(y, h[0], filled);
  } else if (traffic.streamed) {
    for (int u = 0; u < N; u += 2) stream(y + u * kLanes, h[u], h[u + 1]);
  } else {
    for (int u = 0; u < N; u += 2) store(y + u * kLanes, h[u], h[u + 1]);
  }
}

// Calls f(first, number of vectors, filled) until n elements are covered; the last vector may reach back.
template <class F>
inline void for_each_bunch(int64_t n, F f) {
  constexpr std::integral_constant<int, kUnrollApply> many{};
  constexpr std::integral_constant<int, 1> one{};
  int64_t i = 0;
  for (; i + kUnrollApply * kLanes <= n; i += kUnrollApply * kLanes) f(i, many, Full());
  for (; i + kLanes <= n; i += kLanes) f(i, one, Full());
  if (i == n) return;
  n < kLanes ? f(0, one, Partial{n}) : f(n - kLanes, one, Full());
}

// One channel's run of n elements.
template <bool kSilu, class T>
void apply_run(const T* x, int64_t n, float offset, float a, float b, T* y, Traffic traffic) {
  const Floats o = broadcast(offset), av = broadcast(a), bv = broadcast(b);
  for_each_bunch(n, [&](int64_t i, auto vectors, auto filled) {
    apply<kSilu, vectors.value>(
        x + i, y + i, filled, traffic, [&](int) { return o; }, [&](int) { return av; }, [&](int) { return bv; });
  });
}

// Rows of `channels`, `stride` apart.
template <bool kSilu, class T>
void apply_rows(const T* x, int64_t rows, int64_t stride, int64_t channels, Affine affine, T* y, Traffic traffic) {
  for (int64_t r = 0; r < rows; ++r, x += stride, y += stride) {
    for_each_bunch(channels, [&](int64_t c, auto vectors, auto filled) {
      const auto at = [&](const float* from) {
        return [=](int u) { return load(from + c + u * kLanes, filled); };
      };
      apply<kSilu, vectors.value>(x + c, y + c, filled, traffic, at(affine.offset), at(affine.a), at(affine.b));
    });
  }
}

}  // namespace
}  // namespace fastdiff::cpu
