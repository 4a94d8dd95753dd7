// The argument of gram's kernels, and how a sample is cut into parts, one for each block: by its own size alone, so that
// its result does not depend on the batch. Plain C++ for the launcher and its tests.
#pragma once

#include "../gram.h"
#include "solver_step_args.h"

namespace fastdiff::cuda {

constexpr int kGramThreads = 256;
constexpr int kGramWidth = 4;  // neighbouring elements that a thread takes at once
constexpr int64_t kRoundElements = kGramThreads * kGramWidth;

// A Gram in the compute type T, without what the basis does not read.
template <class T>
struct Parts {
  int dims;
  int64_t size[kMaxDims];
  int64_t elements;  // of one sample
  int64_t parts;     // of one sample
  int rounds;        // in which a block takes its part
  int tensors;
  Operand tensor[kMaxTensors];
  T basis[kMaxTensors][kMaxVectors];
  const double* device_basis;  // null, or read in place of basis
  int64_t basis_stride[2];
  double* partial;  // [batch, products, parts]
};

// More rounds for large samples, so that there is less to add up; few for small ones, to spread them over the machine.
inline int rounds_of(int64_t elements) { return elements >= 1 << 20 ? 8 : elements >= 1 << 18 ? 4 : 1; }

inline int64_t parts_of(int64_t elements) { return ceil_div(elements, rounds_of(elements) * kRoundElements); }

inline bool is_read(const Gram& g, int j) {
  if (g.tensor[j].data == nullptr) return false;
  bool read = g.device_basis != nullptr;
  for (int i = 0; i < g.vectors; ++i) read = read || g.basis[i][j] != 0;
  return read;
}

template <class T>
Parts<T> kernel_argument(const Gram& g, double* partial) {
  Parts<T> p{};
  p.dims = g.dims;
  for (int d = 0; d < g.dims; ++d) p.size[d] = g.size[d];
  p.elements = elements_per_sample(g);
  p.parts = parts_of(p.elements), p.rounds = rounds_of(p.elements);
  p.tensors = g.tensors;
  for (int j = 0; j < g.tensors; ++j) {
    if (is_read(g, j)) p.tensor[j] = g.tensor[j];
    for (int i = 0; i < g.vectors; ++i) p.basis[j][i] = static_cast<T>(g.basis[i][j]);
  }
  p.device_basis = g.device_basis;
  p.basis_stride[0] = g.basis_stride[0], p.basis_stride[1] = g.basis_stride[1];
  p.partial = partial;
  return p;
}

// Whether kGramWidth elements at a time can be had of every tensor: samples contiguous, and each aligned for the access.
template <class T>
bool is_dense(const Parts<T>& p) {
  if (p.elements % kGramWidth != 0) return false;
  for (int j = 0; j < p.tensors; ++j) {
    const Operand& v = p.tensor[j];
    if (v.data == nullptr) continue;
    int64_t expected = 1;
    for (int d = p.dims - 1; d > 0; --d) {
      if (p.size[d] != 1 && v.stride[d] != expected) return false;
      expected *= p.size[d];
    }
    const int64_t bytes = v.dtype == DType::f64 ? 8 : v.dtype == DType::f32 ? 4 : 2;
    const int64_t access = kGramWidth * bytes < 16 ? kGramWidth * bytes : 16;
    if (reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(access) != 0) return false;
    if (p.size[0] > 1 && v.stride[0] * bytes % access != 0) return false;
  }
  return true;
}

// launch.template run<T, N, kDense>(argument) for N vectors.
template <class T, int N, class Launch>
const char* dispatch(const Gram& g, double* partial, const Launch& launch) {
  if constexpr (N <= kMaxVectors) {
    if (g.vectors != N) return dispatch<T, N + 1>(g, partial, launch);
    const Parts<T> p = kernel_argument<T>(g, partial);
    return is_dense(p) ? launch.template run<T, N, true>(p) : launch.template run<T, N, false>(p);
  } else {
    return "gram: more vectors than there is a kernel for";
  }
}

template <class Launch>
const char* dispatch(const Gram& g, double* partial, const Launch& launch) {
  return g.wide ? dispatch<double, 1>(g, partial, launch) : dispatch<float, 1>(g, partial, launch);
}

}  // namespace fastdiff::cuda
