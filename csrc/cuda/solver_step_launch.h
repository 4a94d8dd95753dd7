// From the contract to a launch: what is read, in which precision, how many elements a thread takes, and the grid. Four
// elements make accesses of 16 bytes; a large tensor gets eight, for more loads in flight; a small one would then leave
// multiprocessors idle. Where memory is strided or not aligned it is one.
// Plain C++, used by the launcher and by the test that walks the same grid on the CPU.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "solver_step_row.h"
#include "solver_step_weights.h"

namespace fastdiff::cuda {

constexpr int64_t kMaxGridY = 65535;
constexpr int64_t kLarge = 1 << 19;  // elements that fill the machine at eight a thread

struct Grid {
  int64_t x, y;  // over the elements of a sample, and over samples
};

inline bool needs_double(const SolverStep& step) {
  const auto wide = [](const Operand& v) { return v.data && v.dtype == DType::f64; };
  for (const Operand& v : step.history)
    if (wide(v)) return true;
  for (const Operand& v : step.others)
    if (wide(v)) return true;
  if (wide(step.state) || wide(step.out_state)) return true;
  return wide(step.x) || wide(step.base) || wide(step.m) || wide(step.m_uncond) || wide(step.out_x) ||
         wide(step.out_base) || wide(step.out_d) || wide(step.out_input);
}

// Without what was left in the fields of one that is absent, so that equal steps have equal bytes.
inline Operand present(const Operand& v) { return v.data ? v : Operand{}; }

template <class T>
Step<T> kernel_argument(const SolverStep& step) {
  const Row& row = step.row;
  const bool writes_base = step.out_base.data != nullptr;
  Step<T> s{};
  s.dims = step.dims;
  for (int d = 0; d < step.dims; ++d) s.size[d] = step.size[d];
  s.elements = elements_per_sample(step);
  set_row(s, row, writes_base);
  if (reads_x(s)) s.x = step.x;
  if (s.p_m != 0) s.m = step.m, s.m_uncond = present(step.m_uncond);
  add_term(s, step.base, weights<T>(row.a_base, row.b_base, writes_base));
  for (int k = 1; k < kMaxHistory; ++k) add_term(s, step.history[k - 1], weights<T>(row.A[k], row.B[k], writes_base));
  s.out_x = step.out_x, s.out_base = present(step.out_base), s.out_d = present(step.out_d);
  s.out_input = present(step.out_input);
  s.copies = step.copies;
  s.guidances = step.guidance, s.thresholds = step.threshold, s.seeds = step.seeds;
  return s;
}

// Also of a step without weights, as an entry of a table is.
template <class T>
WeightedStep<T> weighted_argument(const SolverStep& step) {
  WeightedStep<T> s{};
  static_cast<Step<T>&>(s) = kernel_argument<T>(step);
  if (!step.weights) return s;
  s.weights = step.weights, s.sets = step.sets;
  s.guidances = nullptr;
  if (s.p_m == 0 && !step.out_state.data) return s;
  s.x = step.x, s.m = present(step.m), s.m_uncond = present(step.m_uncond), s.state = present(step.state);
  for (int k = 0; k < kMaxOthers; ++k) s.others[k] = present(step.others[k]);
  s.out_state = present(step.out_state);
  return s;
}

// What is wrong with the request, or null. needs_m: where the row reads the model's output.
template <class T>
const char* find_error(const Step<T>& s, bool needs_m) {
  if (!s.out_x.data || (reads_x(s) && !s.x.data) || (needs_m && s.p_m != 0 && !s.m.data)) {
    return "solver_step: no x, m or output";
  }
  for (int t = 0; t < s.terms; ++t)
    if (!s.term[t].value.data) return "solver_step: the row reads a base or history that was not given";
  return s.draws && !s.seeds ? "solver_step: the row draws noise and no seeds were given" : nullptr;
}

// Whether `width` elements at a time can be had of an operand: samples contiguous, and each aligned for the access. The
// batch stride of a lone sample means nothing, except between copies.
template <class T>
bool fits(const Step<T>& s, const Operand& v, int width) {
  if (!v.data) return true;
  int64_t dense = 1;
  for (int d = s.dims - 1; d > 0; --d) {
    if (s.size[d] != 1 && v.stride[d] != dense) return false;
    dense *= s.size[d];
  }
  const int64_t bytes = v.dtype == DType::f64 ? 8 : v.dtype == DType::f32 ? 4 : 2;
  const int64_t access = width * bytes < 16 ? width * bytes : 16;
  const bool lone = s.size[0] == 1 && &v != &s.out_input;
  const bool starts_aligned = reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(access) == 0;
  return starts_aligned && (lone || v.stride[0] * bytes % access == 0);
}

template <class T>
bool fits(const Step<T>& s, int width) {
  bool fit = s.elements % width == 0;
  for (const Operand* v : {&s.x, &s.m, &s.m_uncond, &s.out_x, &s.out_base, &s.out_d, &s.out_input})
    fit = fit && fits(s, *v, width);
  for (int t = 0; t < s.terms; ++t) fit = fit && fits(s, s.term[t].value, width);
  return fit;
}

template <class T>
bool fits(const WeightedStep<T>& s, int width) {
  bool fit = fits(static_cast<const Step<T>&>(s), width);
  for (const Operand* v : {&s.others[0], &s.others[1], &s.state, &s.out_state}) fit = fit && fits(s, *v, width);
  return fit;
}

template <int W, class T>
Grid grid(const Step<T>& s) {
  constexpr int64_t per_block = static_cast<int64_t>(W) * kThreads<W>;
  return {(s.elements + per_block - 1) / per_block, s.size[0] < kMaxGridY ? s.size[0] : kMaxGridY};
}

// Calls launch.run<T, W>(step, grid) with W, the elements a thread takes, 8 (float without weights only), 4, or 1 where
// the memory does not allow more. Returns what went wrong, or null.
template <class T, template <class> class S, class Launch>
const char* launch_step(const S<T>& s, const Launch& launch) {
  if (s.size[0] == 0 || s.elements == 0) return nullptr;
  if constexpr (sizeof(T) == 4 && !std::is_base_of_v<WeightedStep<T>, S<T>>) {
    if (s.size[0] * s.elements >= kLarge && fits(s, 8)) return launch.template run<T, 8>(s, grid<8>(s));
  }
  return fits(s, 4) ? launch.template run<T, 4>(s, grid<4>(s)) : launch.template run<T, 1>(s, grid<1>(s));
}

template <class T, class Launch>
const char* prepare(const SolverStep& step, bool weighted, const Launch& launch) {
  if (weighted) {
    const WeightedStep<T> s = weighted_argument<T>(step);
    const char* wrong = find_error(s, step.weights == nullptr);
    return wrong ? wrong : launch_step<T>(s, launch);
  }
  const Step<T> s = kernel_argument<T>(step);
  const char* wrong = find_error(s, true);
  return wrong ? wrong : launch_step<T>(s, launch);
}

// weighted: run it as a WeightedStep, which a step with weights must be.
template <class Launch>
const char* prepare(const SolverStep& step, bool weighted, const Launch& launch) {
  return needs_double(step) ? prepare<double>(step, weighted, launch) : prepare<float>(step, weighted, launch);
}

}  // namespace fastdiff::cuda
