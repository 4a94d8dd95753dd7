// The functions of fastdiff.ops._C that run ops, in CPython's fastest calling convention.
#pragma once

#include <Python.h>

namespace fastdiff {

// values(run, *arguments): calls run again with guidance, threshold, seeds and weights in the kernel's dtype, on x's
// device.
// layout(run, *arguments): the same with contiguous tensors.
void bind_solver_step(PyObject* values, PyObject* layout);

// (table, i, x, base, m, m_uncond, history, guidance, threshold, seeds, out_x, out_base, out_d, out_input) -> None
// or those and (others, state, weights, out_state).
PyObject* solver_step_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* solver_step_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
// The same arguments -> (bytes, precision, width, grid x, grid y, weighted): the row as an entry of a device table,
// weighted where all 18 are given.
PyObject* solver_step_pack(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
// (steps, counter, times [rows, ...], t [...], precision, width, grid x, grid y, weighted) -> None: entry `counter` of
// the table, then the counter goes on and t becomes the next of times.
PyObject* solver_step_table(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// (table, rows, buffers, m, m_uncond, guidance, threshold, seeds, out_input, others, state, weights, out_state) -> 0, or
// where it did not run 1: guidance, threshold, seeds, weights, table or rows are not in the kernel's dtype, dense and on
// the buffers' device; 2: the tensors have too many dimensions that do not merge.
PyObject* solver_step_rows_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* solver_step_rows_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// (q, k, v, out, scale) -> None; tensors [B, H, N, D] whose elements along D are neighbours.
PyObject* attention_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* attention_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// workspace(bytes, device): a tensor of that many bytes on the CUDA device.
void bind_group_norm(PyObject* workspace);

// (x, y, groups, weight, bias, eps, add, scale, shift, act) -> whether it ran: false where x and y are neither both
// contiguous nor both channels_last, or the elements of a per-channel operand are no neighbours along C.
PyObject* group_norm_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* group_norm_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// workspace(bytes, device), as for group_norm.
void bind_gram(PyObject* workspace);

// (basis, tensors, out) -> None; basis [n, k] float64 on the CPU or the tensors' device, out [B, n + 1, n + 1] float64.
PyObject* gram_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* gram_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// workspace(bytes, device), as for group_norm.
void bind_token_stats(PyObject* workspace);

// (logits [B, L, V], logits_uncond, current, positions, seeds, index, temperature, guidance, current_shift, top_k, top_p,
// exclude, numbers [7, B, L], tokens [2, B, L]) -> None; a row's logits are neighbours, all else is contiguous.
PyObject* token_stats_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* token_stats_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace fastdiff
