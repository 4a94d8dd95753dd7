// From the contract to a launch: which kernel, and how many blocks. Plain C++, used by the launcher and by the test
// that walks the same grid on the CPU.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>

#include "attention_flash.h"
#include "attention_hopper.h"
#include "attention_short.h"
#include "attention_single.h"

namespace fastdiff::cuda {

constexpr int64_t kMostBlocks = 0x7fffffff;

// The device that a call is for.
struct Machine {
  int64_t multiprocessors, shared_memory;  // the bytes that a block may have
  bool hopper;                             // has the instructions of sm_90a
};

inline bool is_wide(const Heads& h, const Attention& a, int64_t bytes) {
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
  p.wide = a.head_size * bytes % 16 == 0;
  for (const Heads* h : {&a.q, &a.k, &a.v, &a.out}) p.wide = p.wide && is_wide(*h, a, bytes);
  return p;
}

inline int64_t tiles(int64_t rows, int64_t of) { return (rows + of - 1) / of; }

// launch.run<Kernel>(problem, blocks), with so many blocks for each head.
template <class Kernel, class Launch>
const char* run(const Attention& a, Problem p, int64_t blocks, const Launch& launch) {
  if (a.batch * a.heads > kMostBlocks / blocks) return "more heads and queries than a grid has blocks";
  p.heads = static_cast<int>(a.heads), p.blocks = static_cast<int>(blocks);
  return launch.template run<Kernel>(p, static_cast<int>(a.batch * a.heads * blocks));
}

// As many blocks as the machine holds at a time, so that each takes several tiles of queries.
template <class Kernel, class Launch>
const char* run_short(const Attention& a, const Problem& p, const Machine& machine, const Launch& launch) {
  const int64_t resident = 4 * machine.multiprocessors, all = tiles(a.queries, Kernel::kQueries);
  const int64_t wanted = tiles(resident, a.batch * a.heads), rounds = tiles(all, wanted < all ? wanted : all);
  return run<Kernel>(a, p, tiles(all, rounds), launch);
}

template <bool kBrain, int D, class Launch>
const char* run_exact(const Attention& a, const Problem& p, const Machine& machine, const Launch& launch) {
  if (a.keys <= 80) return run_short<Short<kBrain, D, 80>>(a, p, machine, launch);
  using Long = Short<kBrain, D, 128>;
  if (a.keys <= 128 && Long::kShared <= machine.shared_memory) return run_short<Long>(a, p, machine, launch);
  if (machine.hopper && a.keys > 128) {
    using Kernel = Hopper<kBrain, D>;
    const int64_t blocks = tiles(a.queries, Kernel::kQueries);
    if (2 * a.batch * a.heads * blocks >= machine.multiprocessors) return run<Kernel>(a, p, blocks, launch);
  }
  if constexpr (D <= 80) {
    // Two products for each load of a key or value, where there is enough to do.
    using Large = Flash<kBrain, D, 2, false>;
    const int64_t blocks = tiles(a.queries, Large::kQueries);
    if (a.batch * a.heads * blocks >= 2 * machine.multiprocessors) return run<Large>(a, p, blocks, launch);
  }
  using Small = Flash<kBrain, D, 1, false>;
  return run<Small>(a, p, tiles(a.queries, Small::kQueries), launch);
}

template <bool kBrain, int D, class Launch>
const char* run_masked(const Attention& a, const Problem& p, const Launch& launch) {
  using Kernel = Flash<kBrain, D, 1, true>;
  return run<Kernel>(a, p, tiles(a.queries, Kernel::kQueries), launch);
}

template <bool kBrain, class Launch>
const char* prepare_halves(const Attention& a, const Machine& machine, const Launch& launch) {
  const Problem p = problem(a);
  switch (p.wide ? a.head_size : 0) {
    case 40: return run_exact<kBrain, 40>(a, p, machine, launch);
    case 64: return run_exact<kBrain, 64>(a, p, machine, launch);
    case 72: return run_exact<kBrain, 72>(a, p, machine, launch);
    case 80: return run_exact<kBrain, 80>(a, p, machine, launch);
    case 128: return run_exact<kBrain, 128>(a, p, machine, launch);
    case 160: return run_exact<kBrain, 160>(a, p, machine, launch);
  }
  if (a.head_size <= 64) return run_masked<kBrain, 64>(a, p, launch);
  if (a.head_size <= 128) return run_masked<kBrain, 128>(a, p, launch);
  return run_masked<kBrain, 256>(a, p, launch);
}

template <class Launch>
const char* prepare_single(const Attention& a, const Launch& launch) {
  const Problem p = problem(a);
  const auto all = [&](auto kernel) {
    using Kernel = decltype(kernel);
    return run<Kernel>(a, p, tiles(a.queries, Kernel::kQueries), launch);
  };
  return a.head_size <= 64 ? all(Single<64>()) : a.head_size <= 128 ? all(Single<128>()) : all(Single<256>());
}

}  // namespace fastdiff::cuda
