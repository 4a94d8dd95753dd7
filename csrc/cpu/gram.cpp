// gram for one instruction set (FASTDIFF_ISA). The call is bound by memory, so every tensor is passed over once, in
// stretches that stay in the first-level cache. Tensors of the compute type are read in place, the others through a
// copy of the stretch; a vector that is one of the tensors is not copied again.
#include "kernels.h"

#include "gram_sums.h"
#include "solver_step_sums.h"

namespace fastdiff::cpu {
namespace {

constexpr int64_t kSlot = kShortSum + 32;  // so that equal elements of two slots do not meet in one cache set

template <class T>
constexpr DType kComputed = DType::f32;
template <>
constexpr DType kComputed<double> = DType::f64;

template <class T>
class Sums {
 public:
  explicit Sums(const Gram& g) : g_(g) {
    for (int i = 0; i < g.vectors; ++i) {
      terms_[i] = 0;
      for (int j = 0; j < g.tensors; ++j) {
        if (g.basis[i][j] == 0 || g.tensor[j].data == nullptr) continue;
        from_[i][terms_[i]] = j, weight_[i][terms_[i]++] = static_cast<T>(g.basis[i][j]);
        views_[j].read = true;
      }
    }
    for (int j = 0; j < g.tensors; ++j) look_at(g.tensor[j], views_[j]);
    int count = 0;
    for (int i = 0; i < g.vectors; ++i) {
      if (terms_[i] == 2 && pairs_ < kMaxPairs) order_[count++] = i, paired_[i] = true, ++pairs_;
    }
    for (int i = 0; i < g.vectors; ++i) {
      if (!paired_[i]) order_[count++] = i;
    }
  }

  // Adds the products of elements [begin, end) of a sample to sums.
  void run(int64_t sample, int64_t begin, int64_t end, double* sums) {
    double own[kMaxProducts] = {};
    for (; begin < end; begin += kShortSum) {
      const int64_t n = end - begin < kShortSum ? end - begin : kShortSum;
      for (int j = 0; j < g_.tensors; ++j) {
        if (views_[j].read) value_[j] = fetch(j, sample, begin, n);
      }
      Source<T> vectors[kMaxVectors];
      for (int k = 0; k < g_.vectors; ++k) vectors[k] = source(order_[k], n);
      add_products(g_.vectors, pairs_, vectors, n, own);
    }
    const double* next = own;
    for (int k = 0; k < g_.vectors; ++k) {
      for (int l = k; l < g_.vectors; ++l) sums[place(order_[k], order_[l])] += *next++;
      sums[place(order_[k], g_.vectors)] += *next++;
    }
  }

 private:
  struct View {
    bool read = false, dense = false;  // dense: each sample is contiguous
    bool in_place = false;             // and of the compute type
  };

  void look_at(const Operand& tensor, View& view) const {
    int64_t expected = 1;
    view.dense = true;
    for (int d = g_.dims - 1; d > 0; --d) {
      view.dense = view.dense && (tensor.stride[d] == expected || g_.size[d] == 1);
      expected *= g_.size[d];
    }
    view.in_place = view.dense && tensor.dtype == kComputed<T>;
  }

  const T* fetch(int j, int64_t sample, int64_t begin, int64_t n) {
    const Operand& tensor = g_.tensor[j];
    const int64_t start = sample * tensor.stride[0] + begin;
    if (views_[j].in_place) return static_cast<const T*>(tensor.data) + start;
    T* to = copy_[j];
    if (views_[j].dense) {
      load_run(tensor, start, 1, n, to);
    } else {
      for_each_run(g_, tensor, sample, begin, n, [&](int64_t offset, int64_t stride, int64_t at, int64_t count) {
        load_run(tensor, offset, stride, count, to + at);
      });
    }
    return to;
  }

  Source<T> source(int i, int64_t n) {
    const T* in[kMaxTensors];
    for (int k = 0; k < terms_[i]; ++k) in[k] = value_[from_[i][k]];
    if (paired_[i]) return {in[0], in[1], weight_[i][0], weight_[i][1]};
    if (terms_[i] == 1 && weight_[i][0] == 1) return {in[0], nullptr, 1, 0};
    sum_terms<T>(terms_[i], in, weight_[i], n, vector_[i]);
    return {vector_[i], nullptr, 1, 0};
  }

  // Of <v_i, v_j> among the products.
  int place(int i, int j) const {
    const int row = i < j ? i : j, column = i < j ? j : i;
    return row * (g_.vectors + 1) - row * (row - 1) / 2 + column - row;
  }

  const Gram& g_;
  int terms_[kMaxVectors];
  int from_[kMaxVectors][kMaxTensors];
  T weight_[kMaxVectors][kMaxTensors];
  int order_[kMaxVectors];  // pairs first
  bool paired_[kMaxVectors] = {};
  int pairs_ = 0;
  View views_[kMaxTensors];
  const T* value_[kMaxTensors];
  alignas(64) T copy_[kMaxTensors][kSlot];
  alignas(64) T vector_[kMaxVectors][kSlot];
};

template <class T>
void run(const Gram& g, double* partial, int64_t first, int64_t last) {
  Sums<T> sums(g);
  const int64_t parts = parts_per_sample(g), elements = elements_per_sample(g);
  for (int64_t task = first; task < last; ++task) {
    const int64_t begin = task % parts * kGramPart;
    double* own = partial + task * products(g);
    for (int k = 0; k < products(g); ++k) own[k] = 0;
    sums.run(task / parts, begin, elements - begin < kGramPart ? elements : begin + kGramPart, own);
  }
}

}  // namespace

namespace FASTDIFF_ISA {

void gram(const Gram& g, double* partial, int64_t first, int64_t last) {
  g.wide ? run<double>(g, partial, first, last) : run<float>(g, partial, first, last);
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
