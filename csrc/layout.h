// How the operands of a call that goes over tensors element by element are walked together.
#pragma once

#include <algorithm>
#include <utility>

#include "solver_step.h"
#include "tensor.h"

namespace fastdiff {

struct Layout {
  int32_t dims;            // how many of size[] are used, at least 1
  int64_t size[kMaxDims];  // size[0] is the batch
};

// From the largest stride of `tensor` to the smallest, the order of its memory. By insertion, which is stable and takes
// no memory.
inline void sort_by_stride(int* order, int used, const Tensor& tensor) {
  for (int k = 1; k < used; ++k) {
    for (int j = k; j > 0 && tensor.stride[order[j - 1]] < tensor.stride[order[j]]; --j) {
      std::swap(order[j - 1], order[j]);
    }
  }
}

// Neighbouring dimensions along which every one of `count` tensors of one shape goes on with one stride become one, so
// that nearly every call is [batch, elements] to the kernels; with `one_sample` the batch is a dimension like the
// others. The dimensions come in the order of `ordered_by`'s memory, or in their own where it is null. Sets the
// operands' strides; false where more than kMaxDims are left.
inline bool lay_out(const Tensor* tensors, Operand* const* operands, int count, bool one_sample,
                    const Tensor* ordered_by, Layout& layout) {
  const Tensor& first = tensors[0];
  int order[kMaxRank], used = 0;
  for (int d = one_sample ? 0 : 1; d < first.rank; ++d) {
    if (first.shape[d] != 1) order[used++] = d;
  }
  if (ordered_by != nullptr) sort_by_stride(order, used, *ordered_by);
  const auto continues = [&](int outer, int inner) {
    return std::all_of(tensors, tensors + count, [&](const Tensor& tensor) {
      return tensor.stride[outer] == tensor.stride[inner] * first.shape[inner];
    });
  };
  int merged[kMaxRank], groups = 0;  // the last dimension of each group
  int64_t size[kMaxRank];
  for (int k = 0; k < used; ++k) {
    if (groups > 0 && continues(merged[groups - 1], order[k])) {
      size[groups - 1] *= first.shape[order[k]];
      merged[groups - 1] = order[k];
    } else {
      size[groups] = first.shape[order[k]];
      merged[groups++] = order[k];
    }
  }
  if (groups + 1 > kMaxDims) return false;
  layout.dims = groups + 1;
  layout.size[0] = one_sample ? 1 : first.shape[0];
  std::copy(size, size + groups, layout.size + 1);
  for (int o = 0; o < count; ++o) {
    int64_t* stride = operands[o]->stride;
    stride[0] = tensors[o].stride[0] * (one_sample ? first.shape[0] : 1);
    for (int g = 0; g < groups; ++g) stride[g + 1] = tensors[o].stride[merged[g]];
    std::fill(stride + layout.dims, stride + kMaxDims, 0);  // equal calls have equal bytes
  }
  return true;
}

}  // namespace fastdiff
