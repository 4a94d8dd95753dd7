// solver_step for Python. A call that only needs its arguments made plain (float64 guidance, contiguous views) goes by
// way of the Python functions given to `bind`.
#include "bind.h"
#include "cpu/solver_step.h"
#include "cuda/solver_step.h"
#include "op_entry.h"
#include "solver_step_call.h"

namespace fastdiff {
namespace {

PyObject *plain_values, *plain_layout;

class SolverStepCall : public SolverStepArguments {
 public:
  static constexpr const char* kName = "solver_step";
  static constexpr int kArguments = kSolverStepArguments;
  static constexpr bool kMayBeBrief = true;

  SolverStepCall(PyObject* const* arguments, bool cuda) : SolverStepArguments(arguments, cuda, false), cuda_(cuda) {}

  bool read() {
    fit_ = SolverStepArguments::read();
    return fit_ == Fit::as_they_are;
  }

  int useful_threads() const { return cpu::useful_threads(step); }
  void run(int threads) const { cpu::solver_step(step, threads); }
  const char* launch(void* stream) const { return cuda::solver_step(step, stream); }
  PyObject* done() const { Py_RETURN_NONE; }

  // plain(run, *arguments) makes the arguments plain and calls run again.
  PyObject* declined(PyObject* module) const {
    const Owned run(PyObject_GetAttrString(module, cuda_ ? "solver_step_cuda" : "solver_step_cpu"));
    PyObject* all[kArguments + 1] = {run.get()};
    for (int k = 0; k < kArguments; ++k) all[k + 1] = object(k);
    return PyObject_Vectorcall(fit_ == Fit::other_values ? plain_values : plain_layout, all, kArguments + 1, nullptr);
  }

 private:
  const bool cuda_;
  Fit fit_;
};

}  // namespace

void bind_solver_step(PyObject* values, PyObject* layout) {
  plain_values = Py_NewRef(values);
  plain_layout = Py_NewRef(layout);
}

PyObject* solver_step_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  const AllArguments given(arguments, count);
  return op_entry<SolverStepCall, Target::cpu>(module, given.all, given.count);
}

#ifdef FASTDIFF_CUDA
PyObject* solver_step_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  const AllArguments given(arguments, count);
  return op_entry<SolverStepCall, Target::cuda>(module, given.all, given.count);
}
#endif

}  // namespace fastdiff
