// attention for one instruction set (FASTDIFF_ISA).
#include "../attention.h"

#include <cmath>
#include <vector>

#include "convert.h"

namespace fastdiff::cpu {
namespace {

template <class T>
void row(const Attention& a, int64_t batch, int64_t head, int64_t query) {
  const auto at = [&](const Heads& h, int64_t r) {
    return static_cast<T*>(h.data) + batch * h.batch_stride + head * h.head_stride + r * h.row_stride;
  };
  const T* q = at(a.q, query);
  std::vector<float> weights(a.keys);
  float top = -INFINITY, sum = 0;
  for (int64_t j = 0; j < a.keys; ++j) {
    float dot = 0;
    for (int64_t d = 0; d < a.head_size; ++d) dot += widen(q[d]) * widen(at(a.k, j)[d]);
    weights[j] = dot * a.scale;
    top = weights[j] > top ? weights[j] : top;
  }
  for (float& w : weights) w = std::exp(w - top), sum += w;
  for (int64_t d = 0; d < a.head_size; ++d) {
    float total = 0;
    for (int64_t j = 0; j < a.keys; ++j) total += weights[j] * widen(at(a.v, j)[d]);
    narrow(total / sum, at(a.out, query)[d]);
  }
}

}  // namespace

namespace FASTDIFF_ISA {

void attention(const Attention& a, int64_t rows, int64_t first, int64_t last) {
  const int64_t blocks = (a.queries + rows - 1) / rows;
  for (int64_t task = first; task < last; ++task) {
    const int64_t head = task / blocks, begin = task % blocks * rows;
    for (int64_t i = begin; i < begin + rows && i < a.queries; ++i) {
      switch (a.dtype) {
        case DType::f16: row<Half>(a, head / a.heads, head % a.heads, i); break;
        case DType::bf16: row<BFloat>(a, head / a.heads, head % a.heads, i); break;
        default: row<float>(a, head / a.heads, head % a.heads, i);
      }
    }
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
