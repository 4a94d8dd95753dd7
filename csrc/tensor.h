// Torch seen without its headers, so that one binary serves every torch. Torch >= 2.10 fills the view of a tensor
// through DLPack's C exchange API in some 50 ns; from an older one it is read attribute by attribute, in some 500.
#pragma once

#include <Python.h>

#include <cstdint>

#include "dtype.h"

namespace fastdiff {

// Thrown where a Python error is set.
struct PythonError {};

// Sets the error that PyErr_Format makes of these.
template <class... Values>
[[noreturn]] void fail(PyObject* type, const char* format, Values... values) {
  PyErr_Format(type, format, values...);
  throw PythonError();
}

// A new reference, dropped at the end of the scope. Null stands for an error that is set, and is thrown.
class Owned {
 public:
  explicit Owned(PyObject* object) : object_(object) {
    if (object == nullptr) throw PythonError();
  }
  Owned(const Owned&) = delete;
  ~Owned() { Py_DECREF(object_); }

  PyObject* get() const { return object_; }

 private:
  PyObject* object_;
};

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

// Throws where `object` is no tensor of rank <= kMaxRank. `out` is filled in place: it is large.
void view(PyObject* object, Tensor& out);

// How many threads torch uses.
int torch_threads();

// The stream torch is using on the device.
void* torch_stream(int device);

}  // namespace fastdiff
