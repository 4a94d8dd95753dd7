// solver_step_rows for Python. What the kernel cannot take as it is, is left to fastdiff/ops/native_rows.py.
#include <cmath>

#include "bind.h"
#include "cpu/solver_step_rows.h"
#include "cuda/solver_step_rows.h"
#include "op_entry.h"
#include "solver_step_rows.h"
#include "step_arguments.h"

namespace fastdiff {
namespace {

enum {
  kTable, kRows, kBuffers, kM, kMUncond, kGuidance, kThreshold, kSeeds, kOutInput, kOthers, kState, kWeights, kOutState,
  kRowsArguments
};

constexpr const char* kNames[] = {"table", "rows", "buffers", "m", "m_uncond", "guidance", "threshold",
                                  "seeds", "out_input", "others", "state", "weights", "out_state"};

class SolverStepRowsCall : public StepArguments {
 public:
  static constexpr const char* kName = "solver_step_rows";
  static constexpr int kArguments = kRowsArguments;
  static constexpr bool kMayBeBrief = true;

  SolverStepRowsCall(PyObject* const* arguments, bool cuda) : StepArguments(arguments, kNames, cuda), cuda_(cuda) {}

  bool read() {
    read_buffers();
    read_operands();
    const bool plain = read_table() && read_rows() && read_values(kGuidance, Tensor::f64, step_.guidance) &&
                       read_values(kThreshold, Tensor::f64, step_.threshold) &&
                       read_values(kSeeds, Tensor::i64, step_.seeds) &&
                       read_weights(kWeights, kOutState, step_.weights, step_.sets);
    if (!plain) return refuse(Fit::other_values);
    if (elements() == 0) return true;
    if (!cuda_) check_records();
    return lay_out(false, in_order() ? nullptr : &x(), step_.dims, step_.size) || refuse(Fit::other_layout);
  }

  int useful_threads() const { return cpu::useful_threads(step_); }
  void run(int threads) const { cpu::solver_step_rows(step_, threads); }
  const char* launch(void* stream) const { return cuda::solver_step_rows(step_, stream); }
  PyObject* done() const { return PyLong_FromLong(static_cast<long>(Fit::as_they_are)); }
  PyObject* declined(PyObject*) const { return PyLong_FromLong(static_cast<long>(fit_)); }

 private:
  bool refuse(Fit fit) {
    fit_ = fit;
    return false;
  }

  void read_buffers() {
    require_list(kBuffers);
    PyObject* list = object(kBuffers);
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
    require(count >= 1 && count <= kMaxBuffers, PyExc_ValueError, kBuffers, "expected 1 to 64 tensors");
    read_x(kBuffers, PySequence_Fast_GET_ITEM(list, 0), step_.layout);
    step_.buffer[step_.buffers++] = x().data;
    for (Py_ssize_t k = 1; k < count; ++k) {
      Tensor tensor;
      view(PySequence_Fast_GET_ITEM(list, k), tensor);
      require(is_like_x(tensor), PyExc_ValueError, kBuffers, "expected one shape, dtype, device and layout");
      step_.buffer[step_.buffers++] = tensor.data;
    }
  }

  bool is_like_x(const Tensor& tensor) const {
    bool alike = tensor.rank == x().rank && tensor.kind == x().kind && on_device(tensor);
    for (int d = 0; alike && d < tensor.rank; ++d) {
      const bool same_step = tensor.stride[d] == x().stride[d] || tensor.shape[d] <= 1 || elements() == 0;
      alike = tensor.shape[d] == x().shape[d] && same_step;
    }
    return alike;
  }

  void read_operands() {
    if (given(kM) || !given(kWeights)) read_operand(kM, step_.m);
    if (given(kMUncond)) read_operand(kMUncond, step_.m_uncond);
    if (given(kWeights) && given(kOthers)) read_others(kOthers, step_.others);
    if (given(kWeights) && given(kState)) read_operand(kState, step_.state);
    if (given(kOutInput)) read_copies(kOutInput, step_.out_input, step_.copies);
    if (given(kOutState)) read_operand(kOutState, step_.out_state);
  }

  bool read_table() {
    Tensor table;
    view(object(kTable), table);
    constexpr int64_t kWidth = sizeof(Record) / sizeof(double);
    const bool shaped = table.rank == 2 && table.shape[0] >= 1 && table.shape[1] == kWidth;
    require(shaped, PyExc_ValueError, kTable, "expected the shape of RowTable.tensor");
    if (!dense(table) || table.kind != Tensor::f64 || !on_device(table)) return false;
    step_.table = static_cast<const Record*>(table.data), step_.records = table.shape[0];
    return true;
  }

  bool read_rows() {
    require(given(kRows), PyExc_ValueError, kRows, "expected one row a sample, got None");
    return read_values(kRows, Tensor::i64, step_.rows);
  }

  // Whether elements are walked in the logical order, in which noise is counted. On CUDA nobody knows who draws any.
  bool in_order() const {
    if (cuda_) return step_.seeds != nullptr;
    const int64_t* end = step_.rows + x().shape[0];
    return std::any_of(step_.rows, end, [this](int64_t i) { return i >= 0 && draws_noise(step_.table[i].row); });
  }

  // `row_table.find_error`, of the rows in use.
  void check_records() const {
    for (int64_t b = 0; b < x().shape[0]; ++b) {
      const int64_t i = step_.rows[b];
      if (i >= step_.records) {
        fail(PyExc_ValueError, "rows: sample %lld is at row %lld of %lld", static_cast<long long>(b),
             static_cast<long long>(i), static_cast<long long>(step_.records));
      }
      if (i >= 0) check_record(i);
    }
  }

  void check_record(int64_t i) const {
    const Row& row = step_.table[i].row;
    const double* slot = step_.table[i].slot;
    const bool reads_x = step_.weights || row.p_x != 0 || row.a_x != 0 || row.b_x != 0;
    check_slot(i, "x", slot[kSlotX], reads_x);
    check_slot(i, "base", slot[kSlotBase], row.a_base != 0 || row.b_base != 0);
    for (int k = 1; k < kMaxHistory; ++k) {
      const char name[] = {'H', '_', static_cast<char>('0' + k), 0};
      check_slot(i, name, slot[kSlotHistory + k - 1], reads_history(row, k));
    }
    check_slot(i, "the next x", slot[kSlotOutX], true);
    check_slot(i, "the next base", slot[kSlotOutBase], slot[kSlotOutBase] >= step_.buffers);
    check_slot(i, "D", slot[kSlotOutD], slot[kSlotOutD] >= step_.buffers);
    if (draws_noise(row) && !step_.seeds) {
      fail(PyExc_ValueError, "table: row %lld: it draws noise and there are no seeds", static_cast<long long>(i));
    }
  }

  void check_slot(int64_t i, const char* name, double number, bool needed) const {
    if (!needed || is_buffer(step_, number)) return;
    const int shown = std::fabs(number) < 1e9 ? static_cast<int>(number) : -1;
    fail(PyExc_ValueError, "table: row %lld: %s is buffer %d of %d", static_cast<long long>(i), name, shown,
         step_.buffers);
  }

  const bool cuda_;
  Fit fit_ = Fit::as_they_are;
  SolverStepRows step_;
};

}  // namespace

PyObject* solver_step_rows_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<SolverStepRowsCall, Target::cpu>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* solver_step_rows_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<SolverStepRowsCall, Target::cuda>(module, arguments, count);
}
#endif

}  // namespace fastdiff
