// From the contract to a launch: which kernel, and how many blocks. Plain C++, used by the launcher and by the test
// that walks the same grid on the CPU.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>

#include "attention_flash.h"
#include "attention_float32.h"
#include "attention_hopper.h"
#include "attention_short_keys.h"
#include "device.h"

namespace fastdiff::cuda {

constexpr int64_t kMaxBlocks = 0x7fffffff;

inline bool is_aligned16(const Heads& h, const Attention& a, int64_t bytes) {
  const auto fits = [&](int64_t size, int64_t stride) { return size == 1 || stride * bytes % 16 == 0; };
  const int64_t rows = &h == &a.k || &h == &a.v ? a.keys : a.queries;
  return reinterpret_cast<uintptr_t>(h.data) % 16 == 0 && fits(a.batch, h.batch_stride) &&
         fits(a.heads, h.head_stride) && fits(rows, h.row_stride);
}

// heads and blocks are for the launch.
inline Problem problem(const Attention& a) {
  const bool halves = a.dtype != DType::f32;
  const int64_t bytes = halves ? 2 : 4;
  Problem p{a.q, a.k, a.v, a.out, 0, a.queries, a.keys, static_cast<int>(a.head_size), 0, 0, true, 0};
  using Limits = std::numeric_limits<float>;
  p.scale = std::fmin(std::fabs(a.scale) * 1.44269504f, Limits::max());
  if (p.scale == 0) p.scale = Limits::denorm_min();  // logits that are masked stay so
  if (std::signbit(a.scale)) p.sign = halves ? 0x80008000u : 0x80000000u;
  p.aligned16 = a.head_size * bytes % 16 == 0;
  for (const Heads* h : {&a.q, &a.k, &a.v, &a.out}) p.aligned16 = p.aligned16 && is_aligned16(*h, a, bytes);
  return p;
}

// launch.run<Kernel>(problem, blocks), with so many blocks for each head.
template <class Kernel, class Launch>
const char* run(const Attention& a, Problem p, int64_t blocks, const Launch& launch) {
  if (a.batch * a.heads > kMaxBlocks / blocks) return "more heads and queries than a grid has blocks";
  p.heads = static_cast<int>(a.heads), p.blocks = static_cast<int>(blocks);
  return launch.template run<Kernel>(p, static_cast<int>(a.batch * a.heads * blocks));
}

// As many blocks as the device holds at a time, so that each takes several tiles of queries.
template <class Kernel, class Launch>
const char* run_short(const Attention& a, const Problem& p, const Device& device, const Launch& launch) {
  const int64_t resident = 4 * device.multiprocessors, all = ceil_div(a.queries, Kernel::kQueries);
  const int64_t wanted = ceil_div(resident, a.batch * a.heads), rounds = ceil_div(all, wanted < all ? wanted : all);
  return run<Kernel>(a, p, ceil_div(all, rounds), launch);
}

template <bool kBf16, int D, class Launch>
const char* run_exact(const Attention& a, const Problem& p, const Device& device, const Launch& launch) {
  if (a.keys <= 80) return run_short<ShortKeys<kBf16, D, 80>>(a, p, device, launch);
  using Long = ShortKeys<kBf16, D, 128>;
  if (a.keys <= 128 && Long::kShared <= device.block_shared) return run_short<Long>(a, p, device, launch);
  if (device.arch == 90 && a.keys > 128) {
    using Kernel = Hopper<kBf16, D>;
    const int64_t blocks = ceil_div(a.queries, Kernel::kQueries);
    if (2 * a.batch * a.heads * blocks >= device.multiprocessors) return run<Kernel>(a, p, blocks, launch);
  }
  if constexpr (D <= 80) {
    // Two products for each load of a key or value, where there is enough to do.
    using Large = Flash<kBf16, D, 2, false>;
    const int64_t blocks = ceil_div(a.queries, Large::kQueries);
    if (a.batch * a.heads * blocks >= 2 * device.multiprocessors) return run<Large>(a, p, blocks, launch);
  }
  using Small = Flash<kBf16, D, 1, false>;
  return run<Small>(a, p, ceil_div(a.queries, Small::kQueries), launch);
}

template <bool kBf16, int D, class Launch>
const char* run_masked(const Attention& a, const Problem& p, const Launch& launch) {
  using Kernel = Flash<kBf16, D, 1, true>;
  return run<Kernel>(a, p, ceil_div(a.queries, Kernel::kQueries), launch);
}

template <bool kBf16, class Launch>
const char* prepare_half(const Attention& a, const Device& device, const Launch& launch) {
  const Problem p = problem(a);
  switch (p.aligned16 ? a.head_size : 0) {
    case 40: return run_exact<kBf16, 40>(a, p, device, launch);
    case 64: return run_exact<kBf16, 64>(a, p, device, launch);
    case 72: return run_exact<kBf16, 72>(a, p, device, launch);
    case 80: return run_exact<kBf16, 80>(a, p, device, launch);
    case 128: return run_exact<kBf16, 128>(a, p, device, launch);
    case 160: return run_exact<kBf16, 160>(a, p, device, launch);
  }
  if (a.head_size <= 64) return run_masked<kBf16, 64>(a, p, launch);
  if (a.head_size <= 128) return run_masked<kBf16, 128>(a, p, launch);
  return run_masked<kBf16, 256>(a, p, launch);
}

template <class Launch>
const char* prepare_float32(const Attention& a, const Launch& launch) {
  const Problem p = problem(a);
  const auto all = [&](auto kernel) {
    using Kernel = decltype(kernel);
    return run<Kernel>(a, p, ceil_div(a.queries, Kernel::kQueries), launch);
  };
  return a.head_size <= 64 ? all(Float32<64>()) : a.head_size <= 128 ? all(Float32<128>()) : all(Float32<256>());
}

}  // namespace fastdiff::cuda
