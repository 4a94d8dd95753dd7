// The device table of steps that a captured run reads: entries are packed here and uploaded by Python.
#define PY_SSIZE_T_CLEAN
#include "bind.h"

#ifdef FASTDIFF_CUDA
#include "cuda/solver_step_table.h"
#include "on_device.h"
#include "solver_step_call.h"

namespace fastdiff {

namespace cuda {
const char* solver_step_table(const StepTable& table, void* stream);
}

namespace {

enum TableArgument { kSteps, kCounter, kTimes, kT, kPrecision, kWidth, kGridX, kGridY, kTableArguments };

bool read_table(PyObject* const* arguments, cuda::StepTable& table, int& device) {
  Tensor tensors[kPrecision];
  for (int k = kSteps; k < kPrecision; ++k) {
    if (!view(arguments[k], tensors[k])) return false;
    if (!tensors[k].cuda || tensors[k].device != tensors[0].device) {
      PyErr_SetString(PyExc_ValueError, "solver_step_table: expected four tensors on one CUDA device");
      return false;
    }
  }
  int64_t words = tensors[kT].kind == Tensor::f64 ? 2 : 1;
  for (int d = 0; d < tensors[kT].rank; ++d) words *= tensors[kT].shape[d];
  int64_t numbers[kTableArguments];
  for (int k = kPrecision; k < kTableArguments; ++k) numbers[k] = PyLong_AsLongLong(arguments[k]);
  if (PyErr_Occurred()) return false;
  device = tensors[0].device;
  table = {tensors[kSteps].data, tensors[kTimes].shape[0], static_cast<int64_t*>(tensors[kCounter].data),
           static_cast<const uint32_t*>(tensors[kTimes].data), static_cast<uint32_t*>(tensors[kT].data), words,
           numbers[kPrecision], numbers[kWidth], {numbers[kGridX], numbers[kGridY]}};
  return true;
}

}  // namespace

PyObject* solver_step_pack(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != kArguments) return PyErr_Format(PyExc_TypeError, "solver_step_pack: expected %d arguments", kArguments);
  Call call(arguments, true, true);
  const Outcome outcome = call.read();
  if (outcome == Outcome::error) return nullptr;
  if (outcome != Outcome::ready) {
    return PyErr_Format(PyExc_ValueError, "solver_step_pack: expected dense tensors, float64 guidance, int64 seeds");
  }
  cuda::PackedStep packed{};
  if (const char* wrong = cuda::pack(call.step, packed)) return PyErr_Format(PyExc_ValueError, "%s", wrong);
  return Py_BuildValue("y#LLLL", packed.bytes, static_cast<Py_ssize_t>(packed.size),
                       static_cast<long long>(packed.precision), static_cast<long long>(packed.width),
                       static_cast<long long>(packed.grid.x), static_cast<long long>(packed.grid.y));
}

PyObject* solver_step_table(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != kTableArguments) {
    return PyErr_Format(PyExc_TypeError, "solver_step_table: expected %d arguments", kTableArguments);
  }
  cuda::StepTable table;
  int device = 0;
  if (!read_table(arguments, table, device)) return nullptr;
  const auto launch = [&](void* stream) { return cuda::solver_step_table(table, stream); };
  if (!on_device("solver_step_table", device, launch)) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace fastdiff
#endif
