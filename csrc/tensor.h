// Torch tensors seen without torch's headers, so that one binary serves every torch. Torch >= 2.10 fills the view
// through DLPack's C exchange API in some 30 ns; from an older one it is read attribute by attribute.
#pragma once

#include <Python.h>

#include <cstdint>

#include "dtype.h"

namespace fastdiff {

constexpr int kMaxRank = 16;

struct Tensor {
  enum Kind { f32, f64, f16, bf16, i64, other };

  void* data;
  Kind kind;
  bool cuda;
  int device;
  int rank;
  int64_t shape[kMaxRank], stride[kMaxRank];

  bool floating() const { return kind <= bf16; }
  DType dtype() const { return static_cast<DType>(kind); }
};

// What the binding needs from torch: the Tensor type and a dict of dtype -> Tensor::Kind. `use_exchange` false reads
// attributes whatever the torch, for tests.
void bind_tensors(PyObject* tensor_type, PyObject* kinds, bool use_exchange);

// False with a Python error set where `object` is no tensor of rank <= kMaxRank.
bool view(PyObject* object, Tensor& out);

// The stream torch is using, if torch can say so in C.
bool current_stream(int device, void** stream);

}  // namespace fastdiff
