// attention for one instruction set (FASTDIFF_ISA). A lane is a query: K and V are read as they are, element by
// element against vectors of queries, so no head size and no number of keys wastes work, and a softmax stays in a lane.
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>

#include "attention.h"
#include "convert.h"
#include "exp2.h"
#include "transpose.h"

namespace fastdiff::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kMostVectors = 4, kTile = 6;  // registers: kMostVectors * kTile sums, kMostVectors operands, one factor
#else
constexpr int kMostVectors = 2, kTile = 6;
#endif
constexpr int kPanel = kMostVectors * kLanes;  // queries that go through the keys together
constexpr int64_t kMostKeys = 128;  // in a block: the weights of a panel stay in the first-level cache
constexpr int64_t kLongestSum = 160;  // of products in float: longer ones lose digits
constexpr float kLog2e = 1.44269504f;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(Constant<n>) for a small n known at run time.
template <int kMost, class F>
inline void with_constant(int n, F f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(Constant<kMost>());
}

// f(row, Constant<count>) over all rows, kTile at a time.
template <class F>
inline void each_tile(int64_t rows, F f) {
  int64_t row = 0;
  for (; row + kTile <= rows; row += kTile) f(row, Constant<kTile>());
  if (row < rows) with_constant<kTile - 1>(static_cast<int>(rows - row), [&](auto count) { f(row, count); });
}

// How many lanes of a vector a row fills: all of them, or fewer because the whole row is shorter.
struct Whole {};
struct Part {
  int64_t lanes;
};

template <class T>
inline Floats load(const T* from, Whole) {
  return load(from);
}

template <class T>
inline Floats load(const T* from, Part part) {
  Floats v{};
  for (int64_t i = 0; i < part.lanes; ++i) v[i] = widen(from[i]);
  return v;
}

template <class T>
inline void store(T* to, Floats v, Whole) {
  store(to, v);
}

template <class T>
inline void store(T* to, Floats v, Part part) {
  for (int64_t i = 0; i < part.lanes; ++i) narrow(v[i], to[i]);
}

// f(first, filled) over vectors that cover a row; the last one reaches back over the one before.
template <class F>
inline void each_vector(int64_t size, F f) {
  if (size < kLanes) return f(0, Part{size});
  for (int64_t d = 0; d < size; d += kLanes) f(d + kLanes <= size ? d : size - kLanes, Whole());
}

// sum[r][.] = sum over i < n of factor[r * row + i * column] * x[i][.]
template <int kVectors, int kRows>
inline __attribute__((always_inline)) void multiply(const float* x, int64_t n, const float* factor, int64_t row,
                                                    int64_t column, Floats (&sum)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Floats{};
  }
  for (int64_t i = 0; i < n; ++i) {
    Floats operand[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) operand[v] = load(x + (i * kVectors + v) * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats by = spread(factor[r * row + i * column]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] = mad(operand[v], by, sum[r][v]);
    }
  }
}

// Keys or values of a block as float.
struct Rows {
  const float* data;
  int64_t stride;
};

// Up to kPanel queries on their way through the keys: q and the sum of weighted values are [head_size][vectors].
struct Panel {
  float *q, *out;
  Floats top[kMostVectors];                           // the largest logit so far
  Floats origin[kMostVectors], weight[kMostVectors];  // -top in powers of two, and the sum of weights relative to it
};

// The logits of a block of keys as [keys][kVectors] vectors; `top` grows to their largest.
template <int kVectors>
void logits(const Panel& panel, Rows k, int64_t keys, int64_t size, float* to, Floats* top) {
  Floats largest[kVectors];
  for (int v = 0; v < kVectors; ++v) largest[v] = top[v];
  each_tile(keys, [&](int64_t key, auto count) {
    constexpr int kRows = decltype(count)::value;
    const float* factor = k.data + key * k.stride;
    Floats sum[kRows][kVectors];
    multiply(panel.q, size < kLongestSum ? size : kLongestSum, factor, k.stride, 1, sum);
    for (int64_t d = kLongestSum; d < size; d += kLongestSum) {
      Floats more[kRows][kVectors];
      const int64_t terms = size - d < kLongestSum ? size - d : kLongestSum;
      multiply(panel.q + d * kVectors * kLanes, terms, factor + d, k.stride, 1, more);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] += more[r][v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        store(to + ((key + r) * kVectors + v) * kLanes, sum[r][v]);
        largest[v] = larger(sum[r][v], largest[v]);
      }
    }
  });
  for (int v = 0; v < kVectors; ++v) top[v] = largest[v];
}

// Logits become weights relative to `top`, 2^(scale (logit - top)); what came before decays by a factor. The scale
// enters here and not with q, so that rounding is relative to the difference, however large the logits are.
template <int kVectors>
void weigh(Panel& panel, const Floats* top, float scale, int64_t keys, float* weights, Floats* decay) {
  Floats origin[kVectors], sum[kVectors];
  const Floats by = spread(scale);
  for (int v = 0; v < kVectors; ++v) {
    const Floats fresh = -by * top[v];
    origin[v] = top[v] == spread(-INFINITY) ? Floats{} : fresh;
    decay[v] = exp2_of_negative(origin[v] - panel.origin[v]);
    panel.top[v] = top[v], panel.origin[v] = fresh;
    sum[v] = Floats{};
  }
  for (int64_t key = 0; key < keys; ++key) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      float* at = weights + (key * kVectors + v) * kLanes;
      const Floats weight = exp2_of_negative(mad(load(at), by, origin[v]));
      sum[v] += weight;
      store(at, weight);
    }
  }
  for (int v = 0; v < kVectors; ++v) panel.weight[v] = mad(panel.weight[v], decay[v], sum[v]);
}

template <int kVectors>
void add_values(Panel& panel, Rows v, int64_t keys, int64_t size, const float* weights, const Floats* decay,
                bool first) {
  each_tile(size, [&](int64_t column, auto count) {
    constexpr int kRows = decltype(count)::value;
    Floats sum[kRows][kVectors];
    multiply(weights, keys, v.data + column, 1, v.stride, sum);
    float* to = panel.out + column * kVectors * kLanes;
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kVectors; ++i, to += kLanes) {
      const Floats fresh = sum[i / kVectors][i % kVectors];
      store(to, first ? fresh : mad(load(to), decay[i % kVectors], fresh));
    }
  });
}

// Memory of a thread's own that is kept from call to call.
class Scratch {
 public:
  // Room for `count` floats in all, cut up by take().
  void reserve(int64_t count) {
    next_ = 0;
    if (count <= capacity_) return;
    memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64})));
    capacity_ = count;
  }

  float* take(int64_t count) {
    float* taken = memory_.get() + next_;
    next_ += count;
    return taken;
  }

 private:
  struct Delete {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };

  std::unique_ptr<float, Delete> memory_;
  int64_t capacity_ = 0, next_ = 0;
};

template <class T>
class Kernel {
 public:
  Kernel(const Attention& a, int64_t rows) : a_(a), rows_(rows), pitch_(a.head_size < kLanes ? kLanes : a.head_size) {
    const int64_t blocks = (a.keys + kMostKeys - 1) / kMostKeys;
    block_ = (a.keys + blocks - 1) / blocks;
    const int64_t panels = (rows + kPanel - 1) / kPanel, panel = pitch_ * kPanel;
    const int64_t converted = kConverts ? block_ * pitch_ : 0;
    static thread_local Scratch scratch;
    scratch.reserve(2 * panels * panel + block_ * kPanel + 2 * converted);
    for (int64_t i = 0; i < panels; ++i) panels_[i].q = scratch.take(panel), panels_[i].out = scratch.take(panel);
    weights_ = scratch.take(block_ * kPanel);
    k_ = scratch.take(converted), v_ = scratch.take(converted);
  }

  void run(int64_t first, int64_t last) {
    const int64_t blocks = (a_.queries + rows_ - 1) / rows_;
    for (int64_t task = first; task < last; ++task) {
      const int64_t head = task / blocks, begin = task % blocks * rows_;
      attend(head, begin, a_.queries - begin < rows_ ? a_.queries - begin : rows_);
    }
  }

 private:
  static constexpr bool kConverts = !std::is_same_v<T, float>;

  // `count` queries from `begin` on.
  void attend(int64_t head, int64_t begin, int64_t count) {
    const T* q = at(a_.q, head, begin);
    T* out = at(a_.out, head, begin);
    each_panel(count, [&](Panel& panel, int64_t first, int64_t queries, auto vectors) {
      take_queries<vectors>(panel, q + first * a_.q.row_stride, queries);
    });
    for (int64_t key = 0; key < a_.keys; key += block_) {
      const int64_t keys = a_.keys - key < block_ ? a_.keys - key : block_;
      const Rows k = rows_of(a_.k, head, key, keys, k_), v = rows_of(a_.v, head, key, keys, v_);
      each_panel(count, [&](Panel& panel, int64_t, int64_t, auto vectors) {
        advance<vectors>(panel, k, v, keys, key == 0);
      });
    }
    each_panel(count, [&](Panel& panel, int64_t first, int64_t queries, auto vectors) {
      put_result<vectors>(panel, out + first * a_.out.row_stride, queries);
    });
  }

  template <class F>
  void each_panel(int64_t count, F f) {
    for (int64_t first = 0; first < count; first += kPanel) {
      const int64_t queries = count - first < kPanel ? count - first : kPanel;
      with_constant<kMostVectors>(static_cast<int>((queries + kLanes - 1) / kLanes),
                                  [&](auto vectors) { f(panels_[first / kPanel], first, queries, vectors); });
    }
  }

  template <int kVectors>
  void advance(Panel& panel, Rows k, Rows v, int64_t keys, bool first) {
    Floats top[kVectors], decay[kVectors];
    for (int i = 0; i < kVectors; ++i) top[i] = panel.top[i];
    logits<kVectors>(panel, k, keys, a_.head_size, weights_, top);
    weigh<kVectors>(panel, top, std::fabs(a_.scale) * kLog2e, keys, weights_, decay);
    add_values<kVectors>(panel, v, keys, a_.head_size, weights_, decay, first);
  }

  // With the sign of the scale, so that the largest logit is that of the largest weight.
  template <int kVectors>
  void take_queries(Panel& panel, const T* from, int64_t queries) {
    const float sign = a_.scale < 0 ? -1 : 1;
    for (int v = 0; v < kVectors; ++v) {
      panel.top[v] = spread(-INFINITY), panel.origin[v] = spread(INFINITY), panel.weight[v] = Floats{};
      each_vector(a_.head_size, [&](int64_t d, auto filled) {
        Floats m[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = load(from + row(v, i, queries) * a_.q.row_stride + d, filled) * sign;
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(panel.q + ((d + i) * kVectors + v) * kLanes, m[i]);
      });
    }
  }

  template <int kVectors>
  void put_result(const Panel& panel, T* to, int64_t queries) {
    for (int v = 0; v < kVectors; ++v) {
      const Floats share = 1.0f / panel.weight[v];
      each_vector(a_.head_size, [&](int64_t d, auto filled) {
        Floats m[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = load(panel.out + ((d + i) * kVectors + v) * kLanes) * share;
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + row(v, i, queries) * a_.out.row_stride + d, m[i], filled);
      });
    }
  }

  // The query in a lane; lanes beyond the last query repeat it.
  static int64_t row(int v, int lane, int64_t queries) {
    const int64_t query = v * kLanes + lane;
    return query < queries ? query : queries - 1;
  }

  T* at(const Heads& heads, int64_t head, int64_t row) const {
    return static_cast<T*>(heads.data) + head / a_.heads * heads.batch_stride + head % a_.heads * heads.head_stride +
           row * heads.row_stride;
  }

  Rows rows_of(const Heads& heads, int64_t head, int64_t row, int64_t count, float* converted) const {
    const T* from = at(heads, head, row);
    if constexpr (kConverts) {
      for (int64_t i = 0; i < count; ++i) {
        const T* row = from + i * heads.row_stride;
        each_vector(a_.head_size, [&](int64_t d, auto filled) { store(converted + i * pitch_ + d, load(row + d, filled)); });
      }
      return {converted, pitch_};
    } else {
      return {from, heads.row_stride};
    }
  }

  const Attention& a_;
  const int64_t rows_, pitch_;
  int64_t block_;
  Panel panels_[kMostRows / kPanel];
  float *weights_, *k_, *v_;
};

}  // namespace

namespace FASTDIFF_ISA {

void attention(const Attention& a, int64_t rows, int64_t first, int64_t last) {
  switch (a.dtype) {
    case DType::f16: return Kernel<Half>(a, rows).run(first, last);
    case DType::bf16: return Kernel<BFloat>(a, rows).run(first, last);
    default: return Kernel<float>(a, rows).run(first, last);
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
