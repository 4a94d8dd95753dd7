// The contract of attention: out = softmax(q k^T scale) v for each sample and head.
#pragma once

#include "dtype.h"

namespace fastdiff {

// [batch, heads, rows, head_size]; strides count elements, that of head_size is 1.
struct Heads {
  void* data;
  int64_t batch_stride, head_stride, row_stride;
};

struct Attention {
  Heads q, k, v, out;
  DType dtype;  // f32, f16 or bf16 of all four; softmax and sums in float32
  int64_t batch, heads, queries, keys;  // at least one key
  int64_t head_size;
  float scale;
};

}  // namespace fastdiff
