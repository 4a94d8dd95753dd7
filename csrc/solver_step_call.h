// Python arguments to a SolverStep.
#pragma once

#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "layout.h"
#include "solver_step.h"

namespace fastdiff {
namespace {

enum SolverStepArgument {
  kTable, kIndex, kX, kBase, kM, kMUncond, kHistory, kGuidance, kThreshold, kSeeds, kOutX, kOutBase, kOutD, kOutInput,
  kOthers, kState, kWeights, kOutState, kSolverStepArguments
};

constexpr int kUnweightedArguments = kOthers;  // a call without weights may end there

constexpr const char* kSolverStepNames[] = {"table", "i", "x", "base", "m", "m_uncond", "history", "guidance",
                                            "threshold", "seeds", "out_x", "out_base", "out_d", "out_input",
                                            "others", "state", "weights", "out_state"};

// All of a call's arguments, None for those that it leaves out.
struct AllArguments {
  PyObject* all[kSolverStepArguments];
  Py_ssize_t count;

  AllArguments(PyObject* const* given, Py_ssize_t given_count) : count(given_count) {
    std::copy_n(given, std::min<Py_ssize_t>(count, kSolverStepArguments), all);
    if (count != kUnweightedArguments) return;
    std::fill(all + kUnweightedArguments, all + kSolverStepArguments, Py_None);
    count = kSolverStepArguments;
  }
};

// The last table seen stays exported: asking NumPy for a structured array's buffer takes longer than a small step.
inline const Row& row_at(PyObject* table, PyObject* index) {
  static Py_buffer buffer;
  if (buffer.obj != table) {
    Py_buffer fresh;
    if (PyObject_GetBuffer(table, &fresh, PyBUF_STRIDES) != 0) throw PythonError();
    if (fresh.ndim != 1 || fresh.itemsize != sizeof(Row)) {
      PyBuffer_Release(&fresh);
      fail(PyExc_TypeError, "table: expected a one-dimensional array of dtype ROW");
    }
    if (buffer.obj != nullptr) PyBuffer_Release(&buffer);
    buffer = fresh;
  }
  const Py_ssize_t i = PyLong_AsSsize_t(index);
  if (i == -1 && PyErr_Occurred()) throw PythonError();
  if (i < 0 || i >= buffer.shape[0]) {
    fail(PyExc_IndexError, "i: expected a row in [0, %zd), got %zd", buffer.shape[0], i);
  }
  return *reinterpret_cast<const Row*>(static_cast<const char*>(buffer.buf) + i * buffer.strides[0]);
}

// Whether the arguments are what the kernels take. The other two can be made so: guidance, threshold, seeds and weights by
// conversion to the kernel's dtype on x's device, tensors of too many dimensions by copies.
enum class Fit { as_they_are, other_values, other_layout };

class SolverStepArguments : public Arguments {
 public:
  // per_sample: the batch stays a dimension of its own, so that all rows of a plan have one layout.
  SolverStepArguments(PyObject* const* arguments, bool cuda, bool per_sample)
      : Arguments(arguments, kSolverStepNames, cuda), per_sample_(per_sample) {}

  SolverStep step;

  Fit read() {
    std::memcpy(&step.row, &row_at(object(kTable), object(kIndex)), sizeof(Row));
    read_operands();
    if (!read_per_sample()) return Fit::other_values;
    return elements() == 0 || lay_out() ? Fit::as_they_are : Fit::other_layout;
  }

  int64_t elements() const { return elements_; }

 private:
  void read_operands() {
    read_x();
    const Row& row = step.row;
    if (row.a_base != 0 || row.b_base != 0) read_operand(kBase, step.base);
    if (given(kM) || !given(kWeights)) read_operand(kM, step.m);
    if (given(kMUncond)) read_operand(kMUncond, step.m_uncond);
    if (given(kWeights)) read_weighted();
    read_history();
    out_x_ = count_;
    read_operand(kOutX, step.out_x);
    if (given(kOutBase)) read_operand(kOutBase, step.out_base);
    if (given(kOutD)) read_operand(kOutD, step.out_d);
    if (given(kOutInput)) read_operand(kOutInput, step.out_input);
    if (given(kOutState)) read_operand(kOutState, step.out_state);
  }

  // What only weights make use of.
  void read_weighted() {
    if (given(kOthers)) {
      PyObject* others = object(kOthers);
      require_list(kOthers);
      const Py_ssize_t count = PySequence_Fast_GET_SIZE(others);
      require(count <= kMaxOthers, PyExc_ValueError, kOthers, "more than two");
      for (Py_ssize_t k = 0; k < count; ++k) {
        PyObject* other = PySequence_Fast_GET_ITEM(others, k);
        if (other != Py_None) read_operand(kOthers, other, step.others[k]);
      }
    }
    if (given(kState)) read_operand(kState, step.state);
  }

  void read_x() {
    Tensor& x = tensors_[0];
    read_floating(kX, x);
    require(x.rank > 0, PyExc_ValueError, kX, "expected a batch dimension");
    set_device(kX, x);
    elements_ = 1;
    for (int d = 0; d < x.rank; ++d) elements_ *= x.shape[d];
    take(x, step.x);
  }

  void read_history() {
    PyObject* history = object(kHistory);
    require_list(kHistory);
    for (int k = 1; k < kMaxHistory; ++k) {
      if (!reads_history(step.row, k)) continue;
      const bool there = k <= PySequence_Fast_GET_SIZE(history);
      require(there, PyExc_ValueError, kHistory, "shorter than the row reads");
      read_operand(kHistory, PySequence_Fast_GET_ITEM(history, k - 1), step.history[k - 1]);
    }
  }

  void require_list(int argument) const {
    const bool is_list = PyList_Check(object(argument)) || PyTuple_Check(object(argument));
    require(is_list, PyExc_TypeError, argument, "expected a list");
  }

  void read_operand(int argument, Operand& to) { read_operand(argument, object(argument), to); }

  void read_operand(int argument, PyObject* object, Operand& to) {
    require(object != Py_None, PyExc_ValueError, argument, "the row reads it, got None");
    const Tensor& x = tensors_[0];
    Tensor& tensor = tensors_[count_];
    read_floating(argument, object, tensor);
    require(on_device(tensor), PyExc_ValueError, argument, "on another device");
    const bool alike = tensor.rank == x.rank && std::equal(tensor.shape + 1, tensor.shape + x.rank, x.shape + 1);
    require(alike, PyExc_ValueError, argument, "not of x's shape");
    if (argument == kOutInput && x.shape[0] > 0 && tensor.shape[0] % x.shape[0] == 0) {
      step.copies = static_cast<int32_t>(tensor.shape[0] / x.shape[0]);
    } else {
      require(tensor.shape[0] == x.shape[0], PyExc_ValueError, argument, "not of x's batch");
    }
    take(tensor, to);
  }

  void take(const Tensor& tensor, Operand& to) {
    to.data = tensor.data;
    to.dtype = tensor.dtype();
    operands_[count_++] = &to;
  }

  bool read_per_sample() {
    const bool plain = read_values(kGuidance, Tensor::f64, step.guidance) &&
                       read_values(kThreshold, Tensor::f64, step.threshold) &&
                       (!draws() || read_values(kSeeds, Tensor::i64, step.seeds)) && read_weights();
    if (plain && draws()) require(given(kSeeds), PyExc_ValueError, kSeeds, "the row draws noise, got None");
    return plain;
  }

  // False where the kernel cannot take them as they are.
  template <class T>
  bool read_values(int argument, Tensor::Kind kind, const T*& to) {
    if (!given(argument)) return true;
    Tensor tensor;
    view(object(argument), tensor);
    const bool dense = tensor.rank == 1 && (tensor.stride[0] == 1 || tensor.shape[0] <= 1);
    if (!dense || tensor.kind != kind || !on_device(tensor)) return false;
    require(tensor.shape[0] == tensors_[0].shape[0], PyExc_ValueError, argument, "not of x's batch");
    to = static_cast<const T*>(tensor.data);
    return true;
  }

  // The same for weights, which are [batch, sets, kColumns].
  bool read_weights() {
    require(given(kWeights) || !given(kOutState), PyExc_ValueError, kOutState, "expected weights beside it");
    if (!given(kWeights)) return true;
    Tensor tensor;
    view(object(kWeights), tensor);
    const bool shaped = tensor.rank == 3 && tensor.shape[0] == tensors_[0].shape[0] && tensor.shape[1] >= 1 &&
                        tensor.shape[1] <= kMaxSets && tensor.shape[2] == kColumns;
    require(shaped, PyExc_ValueError, kWeights, "expected shape [batch, 1 to 3, 6]");
    require(!given(kOutState) || tensor.shape[1] == kMaxSets, PyExc_ValueError, kOutState, "expected three sets of weights");
    int64_t dense = 1;
    for (int d = 2; d >= 0; dense *= tensor.shape[d--]) {
      if (tensor.shape[d] != 1 && tensor.stride[d] != dense) return false;
    }
    if (tensor.kind != Tensor::f64 || !on_device(tensor)) return false;
    step.weights = static_cast<const double*>(tensor.data);
    step.sets = static_cast<int32_t>(tensor.shape[1]);
    return true;
  }

  bool draws() const { return reads_noise(step.row, 0) || reads_noise(step.row, 1); }

  // Where nothing is per sample the batch is a dimension like the others. The order of elements matters only to noise,
  // which is counted in the logical one. False where more than kMaxDims dimensions are left.
  bool lay_out() {
    const bool one_sample = !per_sample_ && !draws() && step.guidance == nullptr && step.threshold == nullptr &&
                            step.weights == nullptr;
    Layout layout;
    const Tensor* ordered_by = draws() ? nullptr : tensors_ + out_x_;
    if (!fastdiff::lay_out(tensors_, operands_, count_, one_sample, ordered_by, layout)) return false;
    step.dims = layout.dims;
    std::copy(layout.size, layout.size + layout.dims, step.size);
    return true;
  }

  const bool per_sample_;
  int64_t elements_ = 0;
  int count_ = 0, out_x_ = 0;  // operands, and which of them is out_x
  Tensor tensors_[kMaxHistory + 12];  // x first
  Operand* operands_[kMaxHistory + 12];
};

}  // namespace
}  // namespace fastdiff
