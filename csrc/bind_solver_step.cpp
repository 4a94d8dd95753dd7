// solver_step for Python. A call that only needs its arguments made plain (float64 guidance, contiguous views) goes by
// way of the Python functions given to `bind`.
#include "bind.h"
#include "cpu/solver_step.h"
#include "on_cpu.h"
#include "on_device.h"
#include "solver_step_call.h"

namespace fastdiff {

#ifdef FASTDIFF_CUDA
namespace cuda {
const char* solver_step(const SolverStep& step, void* stream);
}
#endif

namespace {

PyObject *plain_values, *plain_layout;

bool run_cpu(const Call& call) {
  const auto kernel = [&](int threads) { cpu::solver_step(call.step, threads); };
  return on_cpu(cpu::useful_threads(call.step), call.elements() < kBrief, kernel);
}

#ifdef FASTDIFF_CUDA
bool run_cuda(const Call& call) {
  return on_device("solver_step", call.device, [&](void* stream) { return cuda::solver_step(call.step, stream); });
}
#endif

// plain(run, *arguments) makes the arguments plain and calls run again.
PyObject* call_plain(PyObject* plain, PyObject* module, const char* run, PyObject* const* arguments) {
  PyObject* all[kArguments + 1] = {PyObject_GetAttrString(module, run)};
  if (all[0] == nullptr) return nullptr;
  std::copy(arguments, arguments + kArguments, all + 1);
  PyObject* result = PyObject_Vectorcall(plain, all, kArguments + 1, nullptr);
  Py_DECREF(all[0]);
  return result;
}

template <bool kCuda>
PyObject* run(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "solver_step: expected %d positional arguments, got %zd", kArguments, count);
    return nullptr;
  }
  Call call(arguments, kCuda);
  const Outcome outcome = call.read();
  if (outcome == Outcome::error) return nullptr;
  if (outcome != Outcome::ready) {
    PyObject* plain = outcome == Outcome::other_values ? plain_values : plain_layout;
    return call_plain(plain, module, kCuda ? "solver_step_cuda" : "solver_step_cpu", arguments);
  }
  if (call.elements() == 0) Py_RETURN_NONE;
#ifdef FASTDIFF_CUDA
  const bool done = kCuda ? run_cuda(call) : run_cpu(call);
#else
  const bool done = run_cpu(call);
#endif
  if (!done) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace

void bind_solver_step(PyObject* values, PyObject* layout) {
  plain_values = Py_NewRef(values);
  plain_layout = Py_NewRef(layout);
}

PyObject* solver_step_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return run<false>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* solver_step_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return run<true>(module, arguments, count);
}
#endif

}  // namespace fastdiff
