// fastdiff._C: built without torch, bound to it by fastdiff/ops/native.py.
#include <Python.h>

#include "bind.h"
#include "cpu/isa.h"
#include "tensor.h"

namespace {

using fastdiff::cpu::Isa;

PyObject* bind(PyObject*, PyObject* args) {
  PyObject *tensor_type, *kinds, *values, *layout, *thread_count, *stream;
  int use_exchange;
  if (!PyArg_ParseTuple(args, "O!O!OOOOp", &PyType_Type, &tensor_type, &PyDict_Type, &kinds, &values, &layout,
                        &thread_count, &stream, &use_exchange)) {
    return nullptr;
  }
  fastdiff::bind_tensors(tensor_type, kinds, use_exchange);
  fastdiff::bind_solver_step(values, layout, thread_count, stream);
  Py_RETURN_NONE;
}

PyObject* usable_isas(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  if (names == nullptr) return nullptr;
#define FASTDIFF_APPEND(isa)                                                            \
  if (fastdiff::cpu::machine_has(Isa::isa)) {                                           \
    PyObject* name = PyUnicode_FromString(#isa);                                        \
    if (name == nullptr || PyList_Append(names, name) != 0) return nullptr;             \
    Py_DECREF(name);                                                                    \
  }
  FASTDIFF_FOR_EACH_ISA(FASTDIFF_APPEND)
#undef FASTDIFF_APPEND
  return names;
}

PyObject* set_isa(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8(name);
  if (text == nullptr) return nullptr;
  if (fastdiff::cpu::set_isa(text)) Py_RETURN_NONE;
  return PyErr_Format(PyExc_ValueError, "isa: this machine or build has no %R", name);
}

PyObject* build_info(PyObject*, PyObject*) {
#define FASTDIFF_SPACED(isa) #isa " "
  const char* compiled = FASTDIFF_FOR_EACH_ISA(FASTDIFF_SPACED);
#undef FASTDIFF_SPACED
#ifdef FASTDIFF_CUDA
  const char *cuda = FASTDIFF_CUDA, *nvcc = FASTDIFF_NVCC;
#else
  const char *cuda = nullptr, *nvcc = nullptr;
#endif
  return Py_BuildValue("{s:s, s:s, s:s, s:z, s:z}", "compiler", __VERSION__, "isas", compiled, "isa",
                       isa_name(fastdiff::cpu::isa()), "cuda", cuda, "nvcc", nvcc);
}

template <class F>
PyCFunction function(F* f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

PyMethodDef methods[] = {
    {"solver_step_cpu", function(fastdiff::solver_step_cpu), METH_FASTCALL, "One row of a plan, on the CPU."},
#ifdef FASTDIFF_CUDA
    {"solver_step_cuda", function(fastdiff::solver_step_cuda), METH_FASTCALL, "One row of a plan, on a CUDA device."},
#endif
    {"bind", bind, METH_VARARGS, "Give the module what it needs from torch."},
    {"build_info", build_info, METH_NOARGS, "What this binary was built with and holds."},
    {"usable_isas", usable_isas, METH_NOARGS, "The instruction sets that this build and this machine have."},
    {"set_isa", set_isa, METH_O, "Use this instruction set from now on; for tests."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
