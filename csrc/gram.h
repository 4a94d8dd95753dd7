// The contract of gram: for each sample the inner products of up to four combinations of tensors, and of the constant
// 1, from one reading of the tensors.
#pragma once

#include "solver_step.h"

namespace fastdiff {

constexpr int kMaxTensors = 6;
constexpr int kMaxVectors = 4;
constexpr int kMaxProducts = kMaxVectors * (kMaxVectors + 1) / 2 + kMaxVectors;

// v_i = sum_j basis_ij t_j for i < vectors, element by element and without the terms whose basis is 0, and
// v_vectors = 1; out_ij = <v_i, v_j>. v is formed in the compute type, float64 if any tensor is float64, else float32.
struct Gram {
  int32_t dims;            // how many of size[] are used, at least 1
  int64_t size[kMaxDims];  // size[0] is the batch
  int32_t tensors, vectors;
  bool wide;                    // computed in float64
  Operand tensor[kMaxTensors];  // data is null where absent: its basis counts as 0
  double basis[kMaxVectors][kMaxTensors];
  const double* device_basis = nullptr;  // CUDA: [vectors, tensors] at these strides, read in place of basis
  int64_t basis_stride[2];
  double* out;  // [batch, vectors + 1, vectors + 1]
};

// Of one sample: <v_i, v_j> for i <= j < vectors, row by row, each row with <v_i, 1> behind it.
static inline int products(const Gram& g) { return g.vectors * (g.vectors + 1) / 2 + g.vectors; }

static inline int64_t elements_per_sample(const Gram& g) {
  int64_t count = 1;
  for (int d = 1; d < g.dims; ++d) count *= g.size[d];
  return count;
}

}  // namespace fastdiff
