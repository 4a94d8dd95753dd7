// group_norm for one instruction set (FASTDIFF_ISA): the statistics of a group, then its output, for which x is read
// again. Where it can be, a task is so small that the second reading comes from the cache.
#include "kernels.h"

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
    case DType::f16: return f(static_cast<const Float16*>(nullptr));
    case DType::bf16: return f(static_cast<const BFloat16*>(nullptr));
    default: return f(static_cast<const float*>(nullptr));
  }
}

template <class F>
void with_activation(Activation act, F f) {
  act == Activation::silu ? f(std::true_type()) : f(std::false_type());
}

// `next`: how many elements further on the next group begins, 0 where there is none.
template <class T>
void contiguous_group(const GroupNorm& n, int64_t sample, int64_t first, int64_t channels, int64_t next) {
  scratch.reserve(4 * channels);
  const Affine affine{scratch.take(channels), scratch.take(channels), scratch.take(channels)};
  const float* add = fetch(n.add, sample, first, channels, nullptr, scratch.take(channels));
  const int64_t at = (sample * n.channels + first) * n.positions;
  const T* x = static_cast<const T*>(n.x) + at;
  T* y = static_cast<T*>(n.y) + at;
  make_affine(n, moments_of_runs(x, channels, n.positions, add), sample, first, channels, affine);
  const bool fits = channels * n.positions * element_bytes(n) <= kCached;
  const Traffic traffic{streams(n, n.positions), fits ? next : 0};
  with_activation(n.act, [&](auto silu) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t run = c * n.positions;
      apply_run<silu.value>(x + run, n.positions, affine.offset[c], affine.a[c], affine.b[c], y + run, traffic);
    }
  });
}

// The moments of some groups of one sample over some of its rows.
template <class T>
void row_moments(const GroupNorm& n, int64_t sample, int64_t row, int64_t rows, int64_t group, int64_t groups,
                 Moments* out) {
  const int64_t size = n.channels / n.groups, first = group * size, c = groups * size;
  scratch.reserve(5 * c + 4 * groups);
  double* totals = reinterpret_cast<double*>(scratch.take(4 * groups));
  const float* add = fetch(n.add, sample, first, c, nullptr, scratch.take(c));
  const Columns columns{scratch.take(c), scratch.take(c), scratch.take(c), scratch.take(c), totals, totals + groups};
  const T* x = static_cast<const T*>(n.x) + (sample * n.positions + row) * n.channels + first;
  moments_of_rows(x, rows, n.channels, groups, size, add, columns, out);
}

// Some groups of one sample in channels_last; `next` as above.
template <class T>
void channels_last_groups(const GroupNorm& n, int64_t sample, int64_t group, int64_t groups, int64_t next) {
  Moments moments[kMaxTogether];
  row_moments<T>(n, sample, 0, n.positions, group, groups, moments);
  const int64_t size = n.channels / n.groups, first = group * size, width = groups * size;
  scratch.reserve(3 * width);
  const Affine affine{scratch.take(width), scratch.take(width), scratch.take(width)};
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t c = g * size;
    make_affine(n, moments[g], sample, first + c, size, {affine.offset + c, affine.a + c, affine.b + c});
  }
  const int64_t at = sample * n.positions * n.channels + first;
  with_activation(n.act, [&](auto silu) {
    apply_rows<silu.value>(static_cast<const T*>(n.x) + at, n.positions, n.channels, width, affine,
                           static_cast<T*>(n.y) + at, {streams(n, width), next});
  });
}

}  // namespace

namespace FASTDIFF_ISA {

void group_norm(const GroupNorm& n, int64_t first, int64_t last) {
  const int64_t size = n.channels / n.groups, together = n.channels_last ? groups_together(n) : 1;
  const auto begin = [&](int64_t task) {  // of its first group's elements
    const int64_t sample = task * together / n.groups, group = task * together % n.groups;
    return sample * n.channels * n.positions + group * size * (n.channels_last ? 1 : n.positions);
  };
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      const int64_t sample = task * together / n.groups, group = task * together % n.groups;
      const int64_t next = task + 1 < last ? begin(task + 1) - begin(task) : 0;
      if (n.channels_last) {
        channels_last_groups<T>(n, sample, group, together, next);
      } else {
        contiguous_group<T>(n, sample, group * size, size, next);
      }
    }
  });
  store_fence();
}

void group_norm_moments(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      const int64_t sample = task / s.count, row = task % s.count * s.rows;
      row_moments<T>(n, sample, row, std::min(s.rows, n.positions - row), 0, n.groups, s.moments + task * n.groups);
    }
  });
}

void group_norm_affine(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  const int64_t size = n.channels / n.groups, stride = n.batch * n.channels;
  for (int64_t task = first; task < last; ++task) {
    const int64_t sample = task / n.groups, group = task % n.groups;
    Moments all;
    for (int64_t k = 0; k < s.count; ++k) merge(all, s.moments[(sample * s.count + k) * n.groups + group]);
    float* affine = s.affine + sample * n.channels + group * size;
    make_affine(n, all, sample, group * size, size, {affine, affine + stride, affine + 2 * stride});
  }
}

void group_norm_rows(const GroupNorm& n, const Slices& s, int64_t first, int64_t last) {
  const int64_t stride = n.batch * n.channels;
  with_type(n.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    for (int64_t task = first; task < last; ++task) {
      const int64_t sample = task / s.count, row = task % s.count * s.rows;
      const int64_t at = (sample * n.positions + row) * n.channels, rows = std::min(s.rows, n.positions - row);
      float* affine = s.affine + sample * n.channels;
      with_activation(n.act, [&](auto silu) {
        apply_rows<silu.value>(static_cast<const T*>(n.x) + at, rows, n.channels, n.channels,
                               {affine, affine + stride, affine + 2 * stride}, static_cast<T*>(n.y) + at,
                               {streams(n, n.channels), 0});
      });
    }
  });
  store_fence();
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
