// Python arguments to a SolverStep. Errors are Python exceptions.
#pragma once

#include <Python.h>

#include <algorithm>
#include <cstring>

#include "solver_step.h"
#include "tensor.h"

namespace fastdiff {
namespace {

enum Argument {
  kTable, kIndex, kX, kBase, kM, kMUncond, kHistory, kGuidance, kThreshold, kSeeds, kOutX, kOutBase, kOutD, kOutInput,
  kArguments
};

constexpr const char* kNames[] = {"table", "i", "x", "base", "m", "m_uncond", "history", "guidance", "threshold",
                                  "seeds", "out_x", "out_base", "out_d", "out_input"};

enum class Outcome { ready, other_values, other_layout, error };

Outcome fail(PyObject* type, int argument, const char* what) {
  PyErr_Format(type, "%s: %s", kNames[argument], what);
  return Outcome::error;
}

// The last table seen stays exported: asking NumPy for a structured array's buffer takes longer than a small step.
const Row* row_at(PyObject* table, PyObject* index) {
  static Py_buffer buffer;
  if (buffer.obj != table) {
    Py_buffer fresh;
    if (PyObject_GetBuffer(table, &fresh, PyBUF_STRIDES) != 0) return nullptr;
    if (fresh.ndim != 1 || fresh.itemsize != sizeof(Row)) {
      PyBuffer_Release(&fresh);
      fail(PyExc_TypeError, kTable, "expected a one-dimensional array of dtype ROW");
      return nullptr;
    }
    if (buffer.obj != nullptr) PyBuffer_Release(&buffer);
    buffer = fresh;
  }
  const Py_ssize_t i = PyLong_AsSsize_t(index);
  if (i == -1 && PyErr_Occurred()) return nullptr;
  if (i < 0 || i >= buffer.shape[0]) {
    PyErr_Format(PyExc_IndexError, "i: expected a row in [0, %zd), got %zd", buffer.shape[0], i);
    return nullptr;
  }
  return reinterpret_cast<const Row*>(static_cast<const char*>(buffer.buf) + i * buffer.strides[0]);
}

class Call {
 public:
  // per_sample: the batch stays a dimension of its own, so that all rows of a plan have one layout.
  Call(PyObject* const* arguments, bool cuda, bool per_sample = false)
      : arguments_(arguments), cuda_(cuda), per_sample_(per_sample) {}

  SolverStep step{};
  int device = 0;

  Outcome read() {
    const Row* row = row_at(arguments_[kTable], arguments_[kIndex]);
    if (row == nullptr) return Outcome::error;
    std::memcpy(&step.row, row, sizeof(Row));
    Outcome outcome = operands();
    if (outcome == Outcome::ready) outcome = per_sample();
    if (outcome == Outcome::ready && elements() > 0 && !lay_out()) outcome = Outcome::other_layout;
    return outcome;
  }

  int64_t elements() const {
    int64_t product = 1;
    for (int d = 0; d < x_.rank; ++d) product *= x_.shape[d];
    return product;
  }

 private:
  Outcome operands() {
    Outcome outcome = operand(kX, arguments_[kX], step.x);
    if (outcome != Outcome::ready) return outcome;
    const Row& row = step.row;
    const bool reads_base = row.a_base != 0 || row.b_base != 0;
    if (reads_base && (outcome = operand(kBase, arguments_[kBase], step.base)) != Outcome::ready) return outcome;
    if ((outcome = operand(kM, arguments_[kM], step.m)) != Outcome::ready) return outcome;
    if ((outcome = optional(kMUncond, step.m_uncond)) != Outcome::ready) return outcome;
    if ((outcome = history()) != Outcome::ready) return outcome;
    if ((outcome = operand(kOutX, arguments_[kOutX], step.out_x)) != Outcome::ready) return outcome;
    if ((outcome = optional(kOutBase, step.out_base)) != Outcome::ready) return outcome;
    if ((outcome = optional(kOutD, step.out_d)) != Outcome::ready) return outcome;
    return optional(kOutInput, step.out_input);
  }

  Outcome history() {
    PyObject* history = arguments_[kHistory];
    if (!PyList_Check(history) && !PyTuple_Check(history)) return fail(PyExc_TypeError, kHistory, "expected a list");
    for (int k = 1; k < kMaxHistory; ++k) {
      if (!reads_history(step.row, k)) continue;
      if (k > PySequence_Fast_GET_SIZE(history)) return fail(PyExc_ValueError, kHistory, "shorter than the row reads");
      const Outcome outcome = operand(kHistory, PySequence_Fast_GET_ITEM(history, k - 1), step.history[k - 1]);
      if (outcome != Outcome::ready) return outcome;
    }
    return Outcome::ready;
  }

  Outcome optional(int argument, Operand& operand) {
    return arguments_[argument] == Py_None ? Outcome::ready : this->operand(argument, arguments_[argument], operand);
  }

  Outcome operand(int argument, PyObject* object, Operand& operand) {
    if (object == Py_None) return fail(PyExc_ValueError, argument, "the row reads it, got None");
    Tensor& tensor = tensors_[count_];
    if (!view(object, tensor)) return Outcome::error;
    if (!tensor.floating()) return fail(PyExc_TypeError, argument, "expected float32, float64, float16 or bfloat16");
    if (argument == kX) {
      if (tensor.rank == 0) return fail(PyExc_ValueError, argument, "expected a batch dimension");
      x_ = tensor;
      device = tensor.device;
    }
    if (tensor.cuda != cuda_ || tensor.device != device) return fail(PyExc_ValueError, argument, "on another device");
    if (tensor.rank != x_.rank || !std::equal(tensor.shape + 1, tensor.shape + tensor.rank, x_.shape + 1)) {
      return fail(PyExc_ValueError, argument, "not of x's shape");
    }
    if (argument == kOutInput && x_.shape[0] > 0 && tensor.shape[0] % x_.shape[0] == 0) {
      step.copies = static_cast<int32_t>(tensor.shape[0] / x_.shape[0]);
    } else if (tensor.shape[0] != x_.shape[0]) {
      return fail(PyExc_ValueError, argument, "not of x's batch");
    }
    operand.data = tensor.data;
    operand.dtype = tensor.dtype();
    operands_[count_++] = &operand;
    return Outcome::ready;
  }

  Outcome per_sample() {
    Outcome outcome = values(kGuidance, Tensor::f64, step.guidance);
    if (outcome == Outcome::ready) outcome = values(kThreshold, Tensor::f64, step.threshold);
    if (outcome == Outcome::ready) outcome = values(kSeeds, Tensor::i64, step.seeds);
    if (outcome == Outcome::ready && arguments_[kSeeds] == Py_None && draws()) {
      return fail(PyExc_ValueError, kSeeds, "the row draws noise, got None");
    }
    return outcome;
  }

  template <class T>
  Outcome values(int argument, Tensor::Kind kind, const T*& out) {
    if (arguments_[argument] == Py_None) return Outcome::ready;
    Tensor tensor;
    if (!view(arguments_[argument], tensor)) return Outcome::error;
    const bool plain = tensor.rank == 1 && (tensor.stride[0] == 1 || tensor.shape[0] <= 1);
    if (!plain || tensor.kind != kind || tensor.cuda != cuda_ || tensor.device != device) return Outcome::other_values;
    if (tensor.shape[0] != x_.shape[0]) return fail(PyExc_ValueError, argument, "not of x's batch");
    out = static_cast<const T*>(tensor.data);
    return Outcome::ready;
  }

  bool draws() const { return reads_noise(step.row, 0) || reads_noise(step.row, 1); }

  // Neighbouring dimensions along which every operand goes on with one stride become one; where nothing is per sample
  // the batch is a dimension like the others. Without noise the order does not matter, so that of out_x's memory is
  // taken. False where more than kMaxDims are left.
  bool lay_out() {
    const bool one_sample = !per_sample_ && !draws() && step.guidance == nullptr && step.threshold == nullptr;
    int order[kMaxRank], used = 0;
    for (int d = one_sample ? 0 : 1; d < x_.rank; ++d) {
      if (x_.shape[d] != 1) order[used++] = d;
    }
    if (!draws()) {
      const Tensor& out = tensors_[out_x()];
      std::stable_sort(order, order + used, [&](int a, int b) { return out.stride[a] > out.stride[b]; });
    }
    int merged[kMaxRank], groups = 0;  // the last dimension of each group
    int64_t size[kMaxRank];
    for (int k = 0; k < used; ++k) {
      if (groups > 0 && continues(merged[groups - 1], order[k])) {
        size[groups - 1] *= x_.shape[order[k]];
        merged[groups - 1] = order[k];
      } else {
        size[groups] = x_.shape[order[k]];
        merged[groups++] = order[k];
      }
    }
    if (groups + 1 > kMaxDims) return false;
    step.dims = groups + 1;
    step.size[0] = one_sample ? 1 : x_.shape[0];
    std::copy(size, size + groups, step.size + 1);
    for (int o = 0; o < count_; ++o) {
      operands_[o]->stride[0] = tensors_[o].stride[0] * (one_sample ? x_.shape[0] : 1);
      for (int g = 0; g < groups; ++g) operands_[o]->stride[g + 1] = tensors_[o].stride[merged[g]];
    }
    return true;
  }

  int out_x() const { return static_cast<int>(std::find(operands_, operands_ + count_, &step.out_x) - operands_); }

  bool continues(int outer, int inner) const {
    for (int o = 0; o < count_; ++o) {
      if (tensors_[o].stride[outer] != tensors_[o].stride[inner] * x_.shape[inner]) return false;
    }
    return true;
  }

  PyObject* const* arguments_;
  const bool cuda_, per_sample_;
  Tensor x_;
  int count_ = 0;
  Tensor tensors_[kMaxHistory + 8];
  Operand* operands_[kMaxHistory + 8];
};

}  // namespace
}  // namespace fastdiff
