// The functions of fastdiff._C that run ops, in CPython's fastest calling convention.
#pragma once

#include <Python.h>

namespace fastdiff {

// values(run, *arguments): calls run again with guidance, threshold and seeds in the kernel's dtype, on x's device.
// layout(run, *arguments): the same with contiguous tensors. thread_count(): torch's. stream(device): torch's, an int.
void bind_solver_step(PyObject* values, PyObject* layout, PyObject* thread_count, PyObject* stream);

// (table, i, x, base, m, m_uncond, history, guidance, threshold, seeds, out_x, out_base, out_d, out_input) -> None
PyObject* solver_step_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* solver_step_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace fastdiff
