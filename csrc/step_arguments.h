// What the arguments of solver_step and solver_step_rows have in common: operands of x's shape, whose dimensions are
// merged together, and numbers of each sample.
#pragma once

#include <algorithm>

#include "arguments.h"
#include "layout.h"
#include "solver_step.h"

namespace fastdiff {
namespace {

// Whether the arguments are what the kernels take. The other two can be made so: guidance, threshold, seeds and weights
// by conversion to the kernel's dtype on x's device, tensors of too many dimensions by copies.
enum class Fit { as_they_are, other_values, other_layout };

class StepArguments : public Arguments {
 public:
  using Arguments::Arguments;

  int64_t elements() const { return elements_; }

 protected:
  const Tensor& x() const { return tensors_[0]; }

  // The first operand, which says what shape and device the others have.
  void read_x(int argument, PyObject* object, Operand& to) {
    Tensor& x = tensors_[0];
    read_floating(argument, object, x);
    require(x.rank > 0, PyExc_ValueError, argument, "expected a batch dimension");
    set_device(argument, x);
    elements_ = 1;
    for (int d = 0; d < x.rank; ++d) elements_ *= x.shape[d];
    take(x, to);
  }

  void read_operand(int argument, Operand& to) { read_operand(argument, object(argument), to); }

  void read_operand(int argument, PyObject* object, Operand& to) {
    require_batch(argument, read_like_x(argument, object, to), x().shape[0]);
  }

  // One that has the batch `copies` times over.
  void read_copies(int argument, Operand& to, int32_t& copies) {
    const int64_t batch = x().shape[0], given = read_like_x(argument, object(argument), to);
    if (batch > 0) copies = static_cast<int32_t>(given / batch);
    require_batch(argument, given, batch > 0 ? copies * batch : 0);
  }

  // Those that may be absent, at most two.
  void read_others(int argument, Operand* to) {
    require_list(argument);
    PyObject* others = object(argument);
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(others);
    require(count <= kMaxOthers, PyExc_ValueError, argument, "more than two");
    for (Py_ssize_t k = 0; k < count; ++k) {
      PyObject* other = PySequence_Fast_GET_ITEM(others, k);
      if (other != Py_None) read_operand(argument, other, to[k]);
    }
  }

  void require_list(int argument) const {
    const bool is_list = PyList_Check(object(argument)) || PyTuple_Check(object(argument));
    require(is_list, PyExc_TypeError, argument, "expected a list");
  }

  // False where the kernel cannot take them as they are.
  template <class T>
  bool read_values(int argument, Tensor::Kind kind, const T*& to) {
    if (!given(argument)) return true;
    Tensor tensor;
    view(object(argument), tensor);
    if (tensor.rank != 1 || !dense(tensor) || tensor.kind != kind || !on_device(tensor)) return false;
    require_batch(argument, tensor.shape[0], x().shape[0]);
    to = static_cast<const T*>(tensor.data);
    return true;
  }

  // The same for weights, which are [batch, sets, kColumns].
  bool read_weights(int argument, int out_state, const double*& to, int32_t& sets) {
    require(given(argument) || !given(out_state), PyExc_ValueError, out_state, "expected weights beside it");
    if (!given(argument)) return true;
    Tensor tensor;
    view(object(argument), tensor);
    const bool shaped = tensor.rank == 3 && tensor.shape[0] == x().shape[0] && tensor.shape[1] >= 1 &&
                        tensor.shape[1] <= kMaxSets && tensor.shape[2] == kColumns;
    require(shaped, PyExc_ValueError, argument, "expected shape [batch, 1 to 3, 6]");
    const bool enough = !given(out_state) || tensor.shape[1] == kMaxSets;
    require(enough, PyExc_ValueError, out_state, "expected three sets of weights");
    if (!dense(tensor) || tensor.kind != Tensor::f64 || !on_device(tensor)) return false;
    to = static_cast<const double*>(tensor.data);
    sets = static_cast<int32_t>(tensor.shape[1]);
    return true;
  }

  static bool dense(const Tensor& tensor) {
    int64_t expected = 1;
    for (int d = tensor.rank - 1; d >= 0; expected *= tensor.shape[d--]) {
      if (tensor.shape[d] > 1 && tensor.stride[d] != expected) return false;
    }
    return true;
  }

  // Sets the operands' strides; false where more than kMaxDims dimensions are left.
  bool lay_out(bool one_sample, const Tensor* ordered_by, int32_t& dims, int64_t* size) {
    Layout layout;
    if (!fastdiff::lay_out(tensors_, operands_, count_, one_sample, ordered_by, layout)) return false;
    dims = layout.dims;
    std::copy(layout.size, layout.size + layout.dims, size);
    return true;
  }

  // The next operand's tensor.
  const Tensor* next() const { return tensors_ + count_; }

 private:
  int64_t read_like_x(int argument, PyObject* object, Operand& to) {
    require(object != Py_None, PyExc_ValueError, argument, "the row reads it, got None");
    Tensor& tensor = tensors_[count_];
    read_floating(argument, object, tensor);
    require(on_device(tensor), PyExc_ValueError, argument, "on another device");
    const bool alike = tensor.rank == x().rank && std::equal(tensor.shape + 1, tensor.shape + x().rank, x().shape + 1);
    require(alike, PyExc_ValueError, argument, "not of x's shape");
    take(tensor, to);
    return tensor.shape[0];
  }

  void require_batch(int argument, int64_t found, int64_t expected) const {
    require(found == expected, PyExc_ValueError, argument, "not of x's batch");
  }

  void take(const Tensor& tensor, Operand& to) {
    to.data = tensor.data;
    to.dtype = tensor.dtype();
    operands_[count_++] = &to;
  }

  int64_t elements_ = 0;
  int count_ = 0;
  Tensor tensors_[kMaxHistory + 12];  // x first
  Operand* operands_[kMaxHistory + 12];
};

}  // namespace
}  // namespace fastdiff
