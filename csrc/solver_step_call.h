// Python arguments to a SolverStep.
#pragma once

#include <algorithm>
#include <cstring>

#include "step_arguments.h"

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

class SolverStepArguments : public StepArguments {
 public:
  // per_sample: the batch stays a dimension of its own, so that all rows of a plan have one layout.
  SolverStepArguments(PyObject* const* arguments, bool cuda, bool per_sample)
      : StepArguments(arguments, kSolverStepNames, cuda), per_sample_(per_sample) {}

  SolverStep step;

  Fit read() {
    std::memcpy(&step.row, &row_at(object(kTable), object(kIndex)), sizeof(Row));
    read_operands();
    if (!read_per_sample()) return Fit::other_values;
    return elements() == 0 || lay_out() ? Fit::as_they_are : Fit::other_layout;
  }

 private:
  void read_operands() {
    read_x(kX, object(kX), step.x);
    const Row& row = step.row;
    if (row.a_base != 0 || row.b_base != 0) read_operand(kBase, step.base);
    if (given(kM) || !given(kWeights)) read_operand(kM, step.m);
    if (given(kMUncond)) read_operand(kMUncond, step.m_uncond);
    if (given(kWeights) && given(kOthers)) read_others(kOthers, step.others);
    if (given(kWeights) && given(kState)) read_operand(kState, step.state);
    read_history();
    out_x_ = next();
    read_operand(kOutX, step.out_x);
    if (given(kOutBase)) read_operand(kOutBase, step.out_base);
    if (given(kOutD)) read_operand(kOutD, step.out_d);
    if (given(kOutInput)) read_copies(kOutInput, step.out_input, step.copies);
    if (given(kOutState)) read_operand(kOutState, step.out_state);
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

  bool read_per_sample() {
    const bool plain = read_values(kGuidance, Tensor::f64, step.guidance) &&
                       read_values(kThreshold, Tensor::f64, step.threshold) &&
                       (!draws() || read_values(kSeeds, Tensor::i64, step.seeds)) &&
                       read_weights(kWeights, kOutState, step.weights, step.sets);
    if (plain && draws()) require(given(kSeeds), PyExc_ValueError, kSeeds, "the row draws noise, got None");
    return plain;
  }

  bool draws() const { return reads_noise(step.row, 0) || reads_noise(step.row, 1); }

  // Where nothing is per sample the batch is a dimension like the others. The order of elements matters only to noise,
  // which is counted in the logical one.
  bool lay_out() {
    const bool one_sample = !per_sample_ && !draws() && step.guidance == nullptr && step.threshold == nullptr &&
                            step.weights == nullptr;
    return StepArguments::lay_out(one_sample, draws() ? nullptr : out_x_, step.dims, step.size);
  }

  const bool per_sample_;
  const Tensor* out_x_ = nullptr;
};

}  // namespace
}  // namespace fastdiff
