// Torch seen without its headers, so that one binary serves every torch. Torch >= 2.10 fills the view of a tensor
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

// What the binding needs from torch: the Tensor type, a dict of dtype -> Tensor::Kind, thread_count() and
// stream(device), an int. `use_exchange` false reads attributes whatever the torch, for tests.
void bind_torch(PyObject* tensor_type, PyObject* kinds, PyObject* thread_count, PyObject* stream, bool use_exchange);

// False with a Python error set where `object` is no tensor of rank <= kMaxRank.
bool view(PyObject* object, Tensor& out);

// How many threads torch uses, or -1 with a Python error set.
int torch_threads();

// The stream torch is using on the device; false with a Python error set where it cannot say.
bool torch_stream(int device, void** stream);

}  // namespace fastdiff
