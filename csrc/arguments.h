// The positional arguments of an op, and its one way to fail: a Python error is set and PythonError thrown, which the
// op's entry (op_entry.h) turns into the null that CPython expects.
#pragma once

#include <Python.h>

#include "tensor.h"

namespace fastdiff {

class Arguments {
 public:
  // names: of each argument, for messages. cuda: where the op runs.
  Arguments(PyObject* const* values, const char* const* names, bool cuda)
      : values_(values), names_(names), cuda_(cuda) {}

  int device() const { return device_; }

 protected:
  PyObject* object(int argument) const { return values_[argument]; }
  bool given(int argument) const { return values_[argument] != Py_None; }

  void require(bool holds, PyObject* type, int argument, const char* what) const {
    if (!holds) fail(type, "%s: %s", names_[argument], what);
  }

  // A tensor whose elements have one of the DTypes.
  void read_floating(int argument, Tensor& to) const { read_floating(argument, object(argument), to); }

  void read_floating(int argument, PyObject* object, Tensor& to) const {
    view(object, to);
    require(to.floating(), PyExc_TypeError, argument, "expected float32, float64, float16 or bfloat16");
  }

  // The same for ops that compute in float32.
  void read_float32_or_half(int argument, Tensor& to) const {
    view(object(argument), to);
    const bool served = to.floating() && to.kind != Tensor::f64;
    require(served, PyExc_TypeError, argument, "expected float32, float16 or bfloat16");
  }

  // The first tensor says which device it is.
  void set_device(int argument, const Tensor& first) {
    require(first.cuda == cuda_, PyExc_ValueError, argument, cuda_ ? "not on CUDA" : "not on the CPU");
    device_ = first.device;
  }

  bool on_device(const Tensor& tensor) const { return tensor.cuda == cuda_ && tensor.device == device_; }

 private:
  PyObject* const* values_;
  const char* const* names_;
  const bool cuda_;
  int device_ = 0;
};

}  // namespace fastdiff
