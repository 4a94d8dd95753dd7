// group_norm for one instruction set (FASTDIFF_ISA).
#include "group_norm.h"

#include "group_norm_apply.h"
#include "group_norm_statistics.h"
#include "scratch.h"

namespace fastdiff::cpu {
namespace {

thread_local Scratch scratch;

// Calls f(T*) with a null pointer of x's element type.
template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f16: return f(static_cast<const Half*>(nullptr));
    case DType::bf16: return f(static_cast<const BFloat*>(nullptr));
    default: return f(static_cast<const float*>(nullptr));
  }
}

template <class F>
void with_activation(Activation act, F f) {
  act == Activation::silu ? f(std::true_type()) : f(std::false_type());
}

constexpr int64_t kAhead = 1 << 18;  // bytes; of two larger groups the second would drive the first out of the cache

// `another`: the group that lies behind this one is next, and on its way into the cache while this one is applied.
template <class T>
void contiguous_group(const GroupNorm& n, int64_t sample, int64_t first, int64_t channels, bool another) {
  scratch.reserve(4 * channels);
  const Line line{scratch.take(channels), scratch.take(channels), scratch.take(channels)};
  const float* add = fetch(n.add, sample, first, channels, nullptr, scratch.take(channels));
  const int64_t at = (sample * n.channels + first) * n.positions;
  const T* x = static_cast<const T*>(n.x) + at;
  T* y = static_cast<T*>(n.y) + at;
  make_line(n, moments_of_runs(x, channels, n.positions, add), sample, first, channels, line);
  const int64_t size = channels * n.positions, bytes = size * static_cast<int64_t>(sizeof(T));
  const int64_t ahead = another && bytes <= kAhead ? size : 0;
  const bool streamed = streams(n, n.positions);
  with_activation(n.act, [&](auto silu) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t run = c * n.positions;
      apply_run<silu.value>(x + run, n.positions, line.offset[c], line.a[c], line.b[c], y + run, streamed, ahead);
    }
  });
}

// The moments of all groups of one sample over some of its rows.
template <class T>
void row_moments(const GroupNorm& n, int64_t sample, int64_t first, int64_t rows, Moments* out) {
  const int64_t c = n.channels;
  scratch.reserve(4 * (c + n.groups));
  double* totals = reinterpret_cast<double*>(scratch.take(4 * n.groups));
  const float* add = fetch(n.add, sample, 0, c, nullptr, scratch.take(c));
  const Columns columns{scratch.take(c), scratch.take(c), scratch.take(c), totals, totals + n.groups};
  const T* x = static_cast<const T*>(n.x) + (sample * n.positions + first) * c;
  moments_of_rows(x, rows, c, n.groups, add, columns, out);
}

}  // namespace

namespace FASTDIFF_ISA {

void group_norm(const GroupNorm& n, int64_t first, int64_t last) {
  const int64_t size = n.channels / n.groups;
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      contiguous_group<T>(n, task / n.groups, task % n.groups * size, size, task + 1 < last);
    }
  });
  drain();
}

void group_norm_moments(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      const int64_t sample = task / s.count, row = task % s.count * s.rows;
      row_moments<T>(n, sample, row, std::min(s.rows, n.positions - row), s.moments + task * n.groups);
    }
  });
}

void group_norm_lines(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  const int64_t size = n.channels / n.groups, stride = n.batch * n.channels;
  for (int64_t task = first; task < last; ++task) {
    const int64_t sample = task / n.groups, group = task % n.groups;
    Moments all;
    for (int64_t k = 0; k < s.count; ++k) all.merge(s.moments[(sample * s.count + k) * n.groups + group]);
    float* line = s.lines + sample * n.channels + group * size;
    make_line(n, all, sample, group * size, size, {line, line + stride, line + 2 * stride});
  }
}

void group_norm_rows(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  const int64_t stride = n.batch * n.channels;
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      const int64_t sample = task / s.count, row = task % s.count * s.rows;
      const int64_t at = (sample * n.positions + row) * n.channels, rows = std::min(s.rows, n.positions - row);
      float* line = s.lines + sample * n.channels;
      with_activation(n.act, [&](auto silu) {
        apply_rows<silu.value>(static_cast<const T*>(n.x) + at, rows, n.channels,
                               {line, line + stride, line + 2 * stride}, static_cast<T*>(n.y) + at,
                               streams(n, n.channels));
      });
    }
  });
  drain();
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
