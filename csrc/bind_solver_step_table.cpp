// The device table of steps that a captured run reads: entries are packed here and uploaded by Python.
#define PY_SSIZE_T_CLEAN
#include "bind.h"

#ifdef FASTDIFF_CUDA
#include "cuda/solver_step_table.h"
#include "op_entry.h"
#include "solver_step_call.h"

namespace fastdiff {
namespace {

enum { kSteps, kCounter, kTimes, kT, kPrecision, kWidth, kGridX, kGridY, kWeighted, kTableArguments };

// Returns the device's index.
int read_table(PyObject* const* arguments, cuda::StepTable& table) {
  Tensor tensors[kPrecision];
  for (int k = kSteps; k < kPrecision; ++k) {
    view(arguments[k], tensors[k]);
    const bool together = tensors[k].cuda && tensors[k].device == tensors[0].device;
    if (!together) fail(PyExc_ValueError, "solver_step_table: expected four tensors on one CUDA device");
  }
  int64_t words = tensors[kT].kind == Tensor::f64 ? 2 : 1;
  for (int d = 0; d < tensors[kT].rank; ++d) words *= tensors[kT].shape[d];
  int64_t numbers[kTableArguments];
  for (int k = kPrecision; k < kTableArguments; ++k) numbers[k] = PyLong_AsLongLong(arguments[k]);
  if (PyErr_Occurred()) throw PythonError();
  table = {tensors[kSteps].data, tensors[kTimes].shape[0], static_cast<int64_t*>(tensors[kCounter].data),
           static_cast<const uint32_t*>(tensors[kTimes].data), static_cast<uint32_t*>(tensors[kT].data), words,
           numbers[kPrecision], numbers[kWidth], {numbers[kGridX], numbers[kGridY]}, numbers[kWeighted] != 0};
  return tensors[0].device;
}

}  // namespace

PyObject* solver_step_pack(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    const AllArguments given(arguments, count);
    require_count("solver_step_pack", kSolverStepArguments, given.count);
    SolverStepArguments call(given.all, true, true);
    if (call.read() != Fit::as_they_are) {
      fail(PyExc_ValueError, "solver_step_pack: expected dense tensors, float64 guidance and weights, int64 seeds");
    }
    cuda::PackedStep packed{};
    const bool weighted = count == kSolverStepArguments;
    if (const char* wrong = cuda::pack(call.step, weighted, packed)) fail(PyExc_ValueError, "%s", wrong);
    return Py_BuildValue("y#LLLLi", packed.bytes, static_cast<Py_ssize_t>(packed.size),
                         static_cast<long long>(packed.precision), static_cast<long long>(packed.width),
                         static_cast<long long>(packed.grid.x), static_cast<long long>(packed.grid.y), weighted);
  });
}

PyObject* solver_step_table(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    require_count("solver_step_table", kTableArguments, count);
    cuda::StepTable table;
    const int device = read_table(arguments, table);
    run_on_cuda("solver_step_table", device, [&](void* stream) { return cuda::solver_step_table(table, stream); });
    Py_RETURN_NONE;
  });
}

}  // namespace fastdiff
#endif
