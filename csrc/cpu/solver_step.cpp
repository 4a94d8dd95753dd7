// solver_step for one instruction set (FASTDIFF_ISA). The step is bound by memory, so every operand is passed over
// once. A sample is cut into blocks that stay in the first-level cache: operands of the compute type are read and
// written in place, the others pass through a scratch copy of the block, so that the arithmetic is compiled for one
// type and contiguous elements only, whatever mix of dtypes and strides a call has.
#include "kernels.h"
#include "normal.h"
#include "solver_step_sums.h"
#include "solver_step_weights.h"

namespace fastdiff::cpu {
namespace {

constexpr int kMaxFused = 5;  // terms of x', D among them, that are summed while D is made
constexpr int64_t kPitch = kBlock + 32;  // so that equal elements of two slots do not meet in one cache set

template <class T>
constexpr DType kDType = DType::f32;
template <>
constexpr DType kDType<double> = DType::f64;

// kWeighted: the step has weights. A class of its own, so that what has none keeps its code.
template <class T, bool kWeighted>
class Kernel {
 public:
  explicit Kernel(const SolverStep& s)
      : s_(s),
        a_(s.row.a_base, s.row.a_x, s.row.A, s.row.xi_a),
        b_(s.row.b_base, s.row.b_x, s.row.B, s.row.xi_b),
        per_sample_(elements_per_sample(s)),
        guided_(!kWeighted && s.row.p_m != 0 && s.m_uncond.data != nullptr) {
    value_[X] = value_[M] = value_[M_UNCOND] = nullptr;
    const bool reads_x = s.row.p_x != 0 || s.row.a_x != 0 || s.row.b_x != 0;
    if (reads_x || kWeighted) read(X, s.x);
    if (s.row.a_base != 0 || s.row.b_base != 0) read(BASE, s.base);
    if constexpr (kWeighted) {
      value_[OTHERS] = value_[OTHERS + 1] = value_[STATE] = nullptr;
      if (s.row.p_m != 0 || s.out_state.data != nullptr) read_summands();
    } else {
      if (s.row.p_m != 0) read(M, s.m);
      if (guided_) read(M_UNCOND, s.m_uncond);
    }
    for (int k = 1; k < kMaxHistory; ++k) {
      if (reads_history(s.row, k)) read(H0 + k, s.history[k - 1]);
    }
    write(H0, s.out_d);
    write(OUT_X, s.out_x);
    write(OUT_BASE, s.out_base);
    write(OUT_INPUT, s.out_input);
    if constexpr (kWeighted) write(OUT_STATE, s.out_state);
  }

  void run(int64_t first, int64_t last) {
    const int64_t blocks = blocks_per_sample(s_), most = in_one_loop() ? blocks : 1;
    for (int64_t k = first, next; k < last; k = next) {
      const int64_t begin = k % blocks * kBlock, left = blocks - k % blocks, count = most < left ? most : left;
      next = count < last - k ? k + count : last;
      const int64_t end = (next - k) * kBlock + begin;
      block(k / blocks, begin, (end < per_sample_ ? end : per_sample_) - begin);
    }
  }

 private:
  // The terms of x' before D, where the loop that makes D makes x' as well.
  int fused_terms() const { return s_.row.p_m != 0 && a_.ends_in_d() && a_.terms <= kMaxFused ? a_.terms - 1 : -1; }

  // Whether D goes to memory: it is an output, or a second sum reads it.
  bool keeps_d() const { return views_[H0].operand || views_[OUT_BASE].operand || fused_terms() < 0; }

  // Whether a row passes over its operands once, in their own memory. Blocks then gain nothing by their size.
  bool in_one_loop() const {
    bool in_place = views_[OUT_X].in_place && (views_[H0].in_place || !keeps_d());
    for (int k = 0; k < count_; ++k) in_place = in_place && views_[reads_[k]].in_place;
    const bool draws = reads_noise(s_.row, 0) || reads_noise(s_.row, 1);
    return in_place && !draws && !kWeighted && fused_terms() >= 0 && !views_[OUT_BASE].operand &&
           !views_[OUT_INPUT].operand;
  }

  struct View {
    const Operand* operand;  // null where absent
    bool in_place;           // of the compute type and dense: the kernel works on its memory
    bool dense;              // each sample is contiguous
  };

  void read(int slot, const Operand& o) { reads_[count_++] = slot, view(slot, o); }

  void read_summands() {
    const auto read_present = [this](int slot, const Operand& o) {
      if (o.data != nullptr) read(slot, o);
    };
    read_present(M, s_.m), read_present(M_UNCOND, s_.m_uncond), read_present(STATE, s_.state);
    for (int k = 0; k < kMaxOthers; ++k) read_present(OTHERS + k, s_.others[k]);
  }

  void write(int slot, const Operand& o) {
    if (o.data != nullptr) return view(slot, o);
    views_[slot] = {nullptr, false, false};
  }

  void view(int slot, const Operand& o) {
    int64_t expected = 1;
    bool dense = true;
    for (int d = s_.dims - 1; d > 0; --d) {
      dense = dense && (o.stride[d] == expected || s_.size[d] == 1);
      expected *= s_.size[d];
    }
    views_[slot] = {&o, dense && o.dtype == kDType<T>, dense};
  }

  void block(int64_t sample, int64_t begin, int64_t n) {
    for (int k = 0; k < count_; ++k) value_[reads_[k]] = fetch(reads_[k], sample, begin, n);
    T* d = keeps_d() ? target(H0, sample, begin) : nullptr;
    T* x = target(OUT_X, sample, begin);
    // Noise needs no memory, so the operands come into the cache while it is computed. Not inlined, gcc takes
    // prefetches for dead code.
    const auto each = [&](int64_t from, int64_t count) __attribute__((always_inline)) {
      for (int k = 0; k < count_; ++k) prefetch(value_[reads_[k]] + from, count);
      if (d) prefetch(d + from, count);
      prefetch(x + from, count);
    };
    for (int j = 0; j < kMaxNoise; ++j) {
      if (!reads_noise(s_.row, j)) continue;
      normals(static_cast<uint64_t>(s_.seeds[sample]), static_cast<uint32_t>(s_.row.noise[j]),
              static_cast<uint64_t>(begin / 4), (n + 3) / 4, scratch_[XI0 + j], each);
      value_[XI0 + j] = scratch_[XI0 + j];
    }
    make(sample, n, model_output(sample, n), d, x);
    put(OUT_X, x, sample, begin, n);
    if (views_[OUT_BASE].operand) {
      T* base = target(OUT_BASE, sample, begin);
      sum(b_, n, base);
      put(OUT_BASE, base, sample, begin, n);
    }
    if (views_[OUT_INPUT].operand) {
      const T c_in = static_cast<T>(s_.row.c_in);
      T* input = scratch_[OUT_INPUT];
      for (int64_t i = 0; i < n; ++i) input[i] = c_in * x[i];
      for (int copy = 0; copy < s_.copies; ++copy) store(OUT_INPUT, input, sample + copy * s_.size[0], begin, n);
    }
    if constexpr (kWeighted) apply_more_sets(sample, begin, n, d);
    put(H0, d, sample, begin, n);
  }

  const T* model_output(int64_t sample, int64_t n) {
    if constexpr (!kWeighted) return value_[M];
    return s_.row.p_m != 0 ? weighted_sum(0, sample, n, scratch_[Y]) : nullptr;
  }

  // A second set of weights makes the D of the history, in the place of the one that is needed no more; a third, the
  // state.
  void apply_more_sets(int64_t sample, int64_t begin, int64_t n, T* d) {
    if (s_.sets > 1 && s_.row.p_m != 0 && views_[H0].operand) {
      convert_alone(conversion(sample, n, weighted_sum(1, sample, n, scratch_[Y]), d));
    }
    if (views_[OUT_STATE].operand == nullptr) return;
    T* state = target(OUT_STATE, sample, begin);
    weighted_sum(2, sample, n, state);
    put(OUT_STATE, state, sample, begin, n);
  }

  // y of one set of weights; returns `out`.
  __attribute__((noinline)) const T* weighted_sum(int set, int64_t sample, int64_t n, T* out) const {
    const double* weight = s_.weights + (sample * s_.sets + set) * kColumns;
    WeightedSum<T> sum(value_[M_UNCOND]);
    sum.add(weight[kWeightUncond], value_[M_UNCOND]);
    sum.add(weight[kWeightX], value_[X]);
    sum.add(weight[kWeightState], value_[STATE]);
    sum.add_difference(weight[kWeightM], value_[M]);
    sum.add_difference(weight[kWeightSecond], value_[OTHERS]);
    sum.add_difference(weight[kWeightThird], value_[OTHERS + 1]);
    sum.run(n, out);
    return out;
  }

  __attribute__((always_inline)) static void prefetch(const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
  }

  Block<T> conversion(int64_t sample, int64_t n, const T* m, T* d) const {
    return {Conversion<T>(s_, sample), value_[X], m, value_[M_UNCOND], nullptr, a_.weight, n, d, nullptr};
  }

  void convert_alone(const Block<T>& block) const { convert<T, -1>(s_.row.p_x != 0, guided_, block); }

  // D and x'. One loop does both for the usual rows: D is still in a register when x' wants it.
  void make(int64_t sample, int64_t n, const T* m, T* d, T* x) {
    const T* in[kMaxTerms];
    for (int k = 0; k < a_.terms; ++k) in[k] = value_[a_.slot[k]];
    Block<T> block = conversion(sample, n, m, d);
    block.in = in, block.sum = x;
    const bool reads_x = s_.row.p_x != 0;
    value_[H0] = d;
    switch (fused_terms()) {
      case 0: return convert<T, 0>(reads_x, guided_, block);
      case 1: return convert<T, 1>(reads_x, guided_, block);
      case 2: return convert<T, 2>(reads_x, guided_, block);
      case 3: return convert<T, 3>(reads_x, guided_, block);
      case 4: return convert<T, 4>(reads_x, guided_, block);
    }
    if (s_.row.p_m != 0) {
      convert_alone(block);
    } else {
      sum_terms<T>(reads_x, &block.x, &block.to_d.p_x, n, d);
      for (int64_t i = 0; i < n; ++i) d[i] = block.to_d(d[i]);
    }
    sum(a_, n, x);
  }

  void sum(const LinearCombination<T>& line, int64_t n, T* out) const {
    const T* in[kMaxTerms];
    for (int k = 0; k < line.terms; ++k) in[k] = value_[line.slot[k]];
    sum_terms<T>(line.terms, in, line.weight, n, out);
  }

  const T* fetch(int slot, int64_t sample, int64_t begin, int64_t n) {
    const View& view = views_[slot];
    const Operand& o = *view.operand;
    if (view.in_place) return static_cast<const T*>(o.data) + sample * o.stride[0] + begin;
    T* to = scratch_[slot];
    if (view.dense) {
      load_run(o, sample * o.stride[0] + begin, 1, n, to);
    } else {
      for_each_run(s_, o, sample, begin, n, [&](int64_t offset, int64_t stride, int64_t at, int64_t count) {
        load_run(o, offset, stride, count, to + at);
      });
    }
    return to;
  }

  T* target(int slot, int64_t sample, int64_t begin) {
    const View& view = views_[slot];
    if (!view.in_place) return scratch_[slot];
    return static_cast<T*>(view.operand->data) + sample * view.operand->stride[0] + begin;
  }

  void put(int slot, const T* from, int64_t sample, int64_t begin, int64_t n) const {
    if (views_[slot].operand && !views_[slot].in_place) store(slot, from, sample, begin, n);
  }

  void store(int slot, const T* from, int64_t sample, int64_t begin, int64_t n) const {
    const Operand& o = *views_[slot].operand;
    if (views_[slot].dense) return store_run(from, n, o, sample * o.stride[0] + begin, 1);
    for_each_run(s_, o, sample, begin, n, [&](int64_t offset, int64_t stride, int64_t at, int64_t count) {
      store_run(from + at, count, o, offset, stride);
    });
  }

  const SolverStep& s_;
  const LinearCombination<T> a_, b_;
  const int64_t per_sample_;
  const bool guided_;
  int count_ = 0;
  int reads_[kSlots];
  View views_[kSlots];  // of what the row reads and of all outputs
  const T* value_[kSlots];
  alignas(64) T scratch_[kSlots][kPitch];
};

template <class T>
void run(const SolverStep& step, int64_t first, int64_t last) {
  if (step.weights) {
    Kernel<T, true>(step).run(first, last);
  } else {
    Kernel<T, false>(step).run(first, last);
  }
}

}  // namespace

namespace FASTDIFF_ISA {

void solver_step(const SolverStep& step, int64_t first, int64_t last) {
  step.x.dtype == DType::f64 ? run<double>(step, first, last) : run<float>(step, first, last);
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
