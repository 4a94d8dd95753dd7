// attention for one instruction set (FASTDIFF_ISA): panels of queries of one head go through the keys block by block
// (Dao et al. 2022, "FlashAttention", alg. 1), so that logits are never in memory. All panels of a task take a block of
// keys before the next, while it is in the cache. Where one block holds all keys, as those of a text, nothing is ever
// rescaled.
#include "attention.h"

#include <algorithm>
#include <cfloat>

#include "attention_panel.h"
#include "kernels.h"
#include "rows.h"
#include "scratch.h"
#include "transpose.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kMaxKeys = 128;  // in a block: the weights of a panel stay in the first-level cache

template <class T>
class Kernel {
 public:
  Kernel(const Attention& a, int64_t rows) : a_(a), rows_(rows), pitch_(a.head_size < kLanes ? kLanes : a.head_size) {
    const int64_t blocks = (a.keys + kMaxKeys - 1) / kMaxKeys;
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
    for_each_panel(count, [&](Panel& panel, int64_t first, int64_t queries, auto vectors) {
      take_queries(panel, q + first * a_.q.row_stride, queries, vectors);
    });
    for (int64_t key = 0; key < a_.keys; key += block_) {
      const int64_t keys = a_.keys - key < block_ ? a_.keys - key : block_;
      const Rows k = rows_of(a_.k, head, key, keys, k_), v = rows_of(a_.v, head, key, keys, v_);
      for_each_panel(count, [&](Panel& panel, int64_t, int64_t, auto vectors) {
        advance<vectors>(panel, k, v, keys, key == 0);
      });
    }
    for_each_panel(count, [&](Panel& panel, int64_t first, int64_t queries, auto vectors) {
      put_result(panel, out + first * a_.out.row_stride, queries, vectors);
    });
  }

  template <class F>
  void for_each_panel(int64_t count, F f) {
    for (int64_t first = 0; first < count; first += kPanel) {
      const int64_t queries = count - first < kPanel ? count - first : kPanel;
      with_constant<kMaxVectors>(static_cast<int>((queries + kLanes - 1) / kLanes),
                                  [&](auto vectors) { f(panels_[first / kPanel], first, queries, vectors); });
    }
  }

  template <int kVectors>
  void advance(Panel& panel, Rows k, Rows v, int64_t keys, bool first) {
    Floats row_max[kVectors], rescale[kVectors];
    for (int i = 0; i < kVectors; ++i) row_max[i] = panel.row_max[i];
    logits<kVectors>(panel, k, keys, a_.head_size, weights_, row_max);
    exponentiate<kVectors>(panel, row_max, scale_, keys, weights_, rescale, first);
    add_values<kVectors>(panel, v, keys, a_.head_size, weights_, rescale, first);
  }

  // With the sign of the scale, so that the largest logit is that of the largest weight. Transposing takes most of the
  // compiler's time: here and in put_result there is one copy of it, whatever the number of vectors.
  __attribute__((noinline)) void take_queries(Panel& panel, const T* from, int64_t queries, int64_t vectors) {
    const float sign = a_.scale < 0 ? -1 : 1;
#pragma GCC unroll 1
    for (int64_t v = 0; v < vectors; ++v) {
      panel.row_max[v] = broadcast(-INFINITY), panel.row_sum[v] = Floats{};
      for_each_vector(a_.head_size, [&](int64_t d, auto filled) {
        Floats m[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = load(from + row(v, i, queries) * a_.q.row_stride + d, filled) * sign;
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(panel.q + ((d + i) * vectors + v) * kLanes, m[i]);
      });
    }
  }

  __attribute__((noinline)) void put_result(const Panel& panel, T* to, int64_t queries, int64_t vectors) {
#pragma GCC unroll 1
    for (int64_t v = 0; v < vectors; ++v) {
      const Floats inverse_sum = 1.0f / panel.row_sum[v];
      for_each_vector(a_.head_size, [&](int64_t d, auto filled) {
        Floats m[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = load(panel.out + ((d + i) * vectors + v) * kLanes) * inverse_sum;
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + row(v, i, queries) * a_.out.row_stride + d, m[i], filled);
      });
    }
  }

  // The query in a lane; lanes beyond the last query repeat it.
  static int64_t row(int64_t v, int lane, int64_t queries) {
    const int64_t query = v * kLanes + lane;
    return query < queries ? query : queries - 1;
  }

  T* at(const Heads& heads, int64_t head, int64_t row) const {
    return static_cast<T*>(heads.data) + head / a_.heads * heads.batch_stride + head % a_.heads * heads.head_stride +
           row * heads.row_stride;
  }

  // Float as it is, other dtypes converted.
  Rows rows_of(const Heads& heads, int64_t head, int64_t row, int64_t count, float* converted) const {
    const T* from = at(heads, head, row);
    if constexpr (kConverts) {
      for (int64_t i = 0; i < count; ++i) {
        const T* row = from + i * heads.row_stride;
        float* to = converted + i * pitch_;
        for_each_vector(a_.head_size, [&](int64_t d, auto filled) { store(to + d, load(row + d, filled)); });
      }
      return {converted, pitch_};
    } else {
      return {from, heads.row_stride};
    }
  }

  const Attention& a_;
  const int64_t rows_, pitch_;
  const float scale_ = std::min(std::fabs(a_.scale) * kLog2e, FLT_MAX);  // in powers of two, without its sign
  int64_t block_;
  Panel panels_[kMaxRows / kPanel];
  float *weights_, *k_, *v_;
};

}  // namespace

namespace FASTDIFF_ISA {

void attention(const Attention& a, int64_t rows, int64_t first, int64_t last) {
  switch (a.dtype) {
    case DType::f16: return Kernel<Float16>(a, rows).run(first, last);
    case DType::bf16: return Kernel<BFloat16>(a, rows).run(first, last);
    default: return Kernel<float>(a, rows).run(first, last);
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
