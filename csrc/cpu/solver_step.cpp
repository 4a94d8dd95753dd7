// solver_step for one instruction set (FASTDIFF_ISA). A sample is cut into blocks that stay in the first-level cache:
// operands of the compute type are read and written in place, the others pass through a scratch copy of the block.
#include "convert.h"
#include "normal.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kBlock = 1024;
constexpr int64_t kPitch = kBlock + 32;  // so that equal elements of two slots do not meet in one cache set
constexpr int kMaxTerms = 2 + kMaxHistory + kMaxNoise;

// What a block can read or write. D is H_0.
enum Slot { X, BASE, M, M_UNCOND, H0, XI0 = H0 + kMaxHistory, OUT_X = XI0 + kMaxNoise, OUT_BASE, OUT_INPUT, kSlots };

template <class T>
constexpr DType kDType = DType::f32;
template <>
constexpr DType kDType<double> = DType::f64;

// One output line: a weighted sum of slots, zero weights left out, D last.
template <class T>
struct Line {
  int terms = 0;
  int slot[kMaxTerms];
  T weight[kMaxTerms];

  Line(double base, double x, const double* history, const double* noise) {
    add(BASE, base);
    add(X, x);
    for (int k = 1; k < kMaxHistory; ++k) add(H0 + k, history[k]);
    for (int j = 0; j < kMaxNoise; ++j) add(XI0 + j, noise[j]);
    add(H0, history[0]);
  }

  bool ends_in_data() const { return terms > 0 && slot[terms - 1] == H0; }

  void add(int from, double by) {
    if (by == 0) return;
    slot[terms] = from;
    weight[terms++] = static_cast<T>(by);
  }
};

template <class T, int N>
void sum_terms(const T* const* in, const T* weights, int64_t n, T* __restrict out) {
  const T* from[N + 1];
  T weight[N + 1];
  for (int k = 0; k < N; ++k) from[k] = in[k], weight[k] = weights[k];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T total = N > 0 ? weight[0] * from[0][i] : T(0);
#pragma GCC unroll 16
    for (int k = 1; k < N; ++k) total = mad(weight[k], from[k][i], total);
    out[i] = total;
  }
}

template <class T, int N = 0>
void sum_terms(int terms, const T* const* in, const T* weights, int64_t n, T* out) {
  if (terms == N) return sum_terms<T, N>(in, weights, n, out);
  if constexpr (N < kMaxTerms) sum_terms<T, N + 1>(terms, in, weights, n, out);
}

// How D is made for one sample. Dividing by the threshold is folded into the weights.
template <class T>
struct Data {
  T p_x, p_m, guidance, bound;

  Data(const SolverStep& s, int64_t sample) {
    const double scale = s.threshold ? 1 / s.threshold[sample] : 1;
    const double clamp = s.row.clamp * scale;
    p_x = static_cast<T>(s.row.p_x * scale);
    p_m = static_cast<T>(s.row.p_m * scale);
    guidance = static_cast<T>(s.guidance ? s.guidance[sample] : s.row.guidance);
    bound = static_cast<T>(s.threshold && !(clamp < 1) ? 1 : clamp);
  }

  T operator()(T linear) const {  // NaN stays NaN
    linear = linear > bound ? bound : linear;
    return linear < -bound ? -bound : linear;
  }
};

template <class T>
struct Block {
  Data<T> data;
  const T *x, *m, *m_uncond;
  const T* in[kMaxTerms];
  const T* weight;
  int64_t n;
  T *d, *line;
};

// D, and in the same loop, where N >= 0, the line over N operands and D.
template <class T, bool kX, bool kGuided, int N>
void make_data(const Block<T>& block) {
  const Data<T> data = block.data;
  const T *x = block.x, *m = block.m, *m_uncond = block.m_uncond, *in[kMaxTerms];
  T weight[kMaxTerms], *d = block.d, *line = block.line;
  for (int k = 0; k < N; ++k) in[k] = block.in[k];
  for (int k = 0; k <= N; ++k) weight[k] = block.weight[k];
#pragma GCC ivdep  // outputs overlap no input
  for (int64_t i = 0; i < block.n; ++i) {
    const T model = kGuided ? mad(data.guidance, m[i] - m_uncond[i], m_uncond[i]) : m[i];
    d[i] = data(kX ? mad(data.p_x, x[i], data.p_m * model) : data.p_m * model);
    if constexpr (N >= 0) {
      T total = weight[N] * d[i];
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) total = mad(weight[k], in[k][i], total);
      line[i] = total;
    }
  }
}

template <class T, int N>
void make_data(bool reads_x, bool guided, const Block<T>& block) {
  if (reads_x) {
    guided ? make_data<T, true, true, N>(block) : make_data<T, true, false, N>(block);
  } else {
    guided ? make_data<T, false, true, N>(block) : make_data<T, false, false, N>(block);
  }
}

template <class T>
class Kernel {
 public:
  explicit Kernel(const SolverStep& s)
      : s_(s),
        a_(s.row.a_base, s.row.a_x, s.row.A, s.row.xi_a),
        b_(s.row.b_base, s.row.b_x, s.row.B, s.row.xi_b) {
    for (int d = 1; d < s.dims; ++d) per_sample_ *= s.size[d];
    const bool reads_x = s.row.p_x != 0 || s.row.a_x != 0 || s.row.b_x != 0;
    if (reads_x) read(X, s.x);
    if (s.row.a_base != 0 || s.row.b_base != 0) read(BASE, s.base);
    if (s.row.p_m != 0) read(M, s.m);
    if (s.row.p_m != 0 && s.m_uncond.data != nullptr) read(M_UNCOND, s.m_uncond);
    for (int k = 1; k < kMaxHistory; ++k) {
      if (reads_history(s.row, k)) read(H0 + k, s.history[k - 1]);
    }
    write(H0, s.out_d);
    write(OUT_X, s.out_x);
    write(OUT_BASE, s.out_base);
    write(OUT_INPUT, s.out_input);
  }

  void run(int64_t first, int64_t last) {
    const int64_t blocks = (per_sample_ + kBlock - 1) / kBlock;
    for (int64_t k = first; k < last; ++k) {
      const int64_t begin = k % blocks * kBlock;
      block(k / blocks, begin, per_sample_ - begin < kBlock ? per_sample_ - begin : kBlock);
    }
  }

 private:
  struct View {
    const Operand* operand = nullptr;
    bool in_place = false;
    bool dense = false;
  };

  void read(int slot, const Operand& o) { reads_[count_++] = slot, view(slot, o); }

  void write(int slot, const Operand& o) {
    if (o.data != nullptr) view(slot, o);
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
    T* d = target(H0, sample, begin);
    T* x = target(OUT_X, sample, begin);
    // The operands come into the cache while the noise is computed. Not inlined, gcc takes prefetches for dead code.
    const auto each = [&](int64_t from, int64_t count) __attribute__((always_inline)) {
      for (int k = 0; k < count_; ++k) prefetch(value_[reads_[k]] + from, count);
      prefetch(d + from, count);
      prefetch(x + from, count);
    };
    for (int j = 0; j < kMaxNoise; ++j) {
      if (!reads_noise(s_.row, j)) continue;
      normals(static_cast<uint64_t>(s_.seeds[sample]), static_cast<uint32_t>(s_.row.noise[j]),
              static_cast<uint64_t>(begin / 4), (n + 3) / 4, scratch_[XI0 + j], each);
      value_[XI0 + j] = scratch_[XI0 + j];
    }
    make(sample, n, d, x);
    put(H0, d, sample, begin, n);
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
  }

  __attribute__((always_inline)) static void prefetch(const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
  }

  // D and x'. One loop does both for the usual rows.
  void make(int64_t sample, int64_t n, T* d, T* x) {
    Block<T> block{Data<T>(s_, sample), value_[X], value_[M], value_[M_UNCOND], {}, a_.weight, n, d, x};
    const bool reads_x = s_.row.p_x != 0, guided = views_[M_UNCOND].operand != nullptr;
    for (int k = 0; k < a_.terms; ++k) block.in[k] = value_[a_.slot[k]];
    const int fused = s_.row.p_m != 0 && a_.ends_in_data() ? a_.terms - 1 : -1;
    value_[H0] = d;
    switch (fused) {
      case 0: return make_data<T, 0>(reads_x, guided, block);
      case 1: return make_data<T, 1>(reads_x, guided, block);
      case 2: return make_data<T, 2>(reads_x, guided, block);
      case 3: return make_data<T, 3>(reads_x, guided, block);
      case 4: return make_data<T, 4>(reads_x, guided, block);
    }
    if (s_.row.p_m != 0) {
      make_data<T, -1>(reads_x, guided, block);
    } else {
      sum_terms<T>(reads_x, &block.x, &block.data.p_x, n, d);
      for (int64_t i = 0; i < n; ++i) d[i] = block.data(d[i]);
    }
    sum(a_, n, x);
  }

  void sum(const Line<T>& line, int64_t n, T* out) const {
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
      each_run(s_, o, sample, begin, n, [&](int64_t offset, int64_t stride, int64_t at, int64_t count) {
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
    each_run(s_, o, sample, begin, n, [&](int64_t offset, int64_t stride, int64_t at, int64_t count) {
      store_run(from + at, count, o, offset, stride);
    });
  }

  const SolverStep& s_;
  const Line<T> a_, b_;
  int64_t per_sample_ = 1;
  int count_ = 0;
  int reads_[kSlots];
  View views_[kSlots];
  const T* value_[kSlots] = {};
  alignas(64) T scratch_[kSlots][kPitch];
};

}  // namespace

namespace FASTDIFF_ISA {

int64_t solver_step_blocks(const SolverStep& step) {
  int64_t per_sample = 1;
  for (int d = 1; d < step.dims; ++d) per_sample *= step.size[d];
  return step.size[0] * ((per_sample + kBlock - 1) / kBlock);
}

void solver_step(const SolverStep& step, int64_t first, int64_t last) {
  if (step.x.dtype == DType::f64) {
    Kernel<double>(step).run(first, last);
  } else {
    Kernel<float>(step).run(first, last);
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
