// fastdiff.ops._C: built without torch, bound to it by fastdiff/ops/native.py.
#include <pybind11/pybind11.h>

#include <string>

#include "bind.h"
#include "cpu/isa.h"
#include "tensor.h"

namespace py = pybind11;
namespace cpu = fastdiff::cpu;

namespace {

void bind(py::type tensor_type, py::dict kinds, py::function thread_count, py::function stream, py::function workspace,
          py::function plain_values, py::function plain_layout, bool use_exchange) {
  fastdiff::bind_torch(tensor_type.ptr(), kinds.ptr(), thread_count.ptr(), stream.ptr(), use_exchange);
  fastdiff::bind_solver_step(plain_values.ptr(), plain_layout.ptr());
  fastdiff::bind_group_norm(workspace.ptr());
  fastdiff::bind_gram(workspace.ptr());
  fastdiff::bind_token_stats(workspace.ptr());
}

py::list usable_isas() {
  py::list names;
  for (const cpu::Isa* isa = cpu::isas(); isa->name; ++isa) {
    if (isa->usable) names.append(isa->name);
  }
  return names;
}

void set_isa(const std::string& name) {
  if (!cpu::use_isa(name.c_str())) throw py::value_error("isa: this machine or build has no '" + name + "'");
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  py::list names;
  for (const cpu::Isa* isa = cpu::isas(); isa->name; ++isa) names.append(isa->name);
  info["isas"] = py::str(" ").attr("join")(names);
  info["isa"] = cpu::isa().name;
#ifdef FASTDIFF_CUDA
  info["cuda"] = FASTDIFF_CUDA;
  info["nvcc"] = FASTDIFF_NVCC;
#else
  info["cuda"] = py::none();
  info["nvcc"] = py::none();
#endif
  return info;
}

template <class F>
PyCFunction function(F* f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

// What runs once a step goes round pybind11's argument conversion, which would cost as much as a small step.
PyMethodDef ops[] = {
    {"solver_step_cpu", function(fastdiff::solver_step_cpu), METH_FASTCALL, "One row of a plan, on the CPU."},
    {"solver_step_rows_cpu", function(fastdiff::solver_step_rows_cpu), METH_FASTCALL, "Rows of their own, on the CPU."},
    {"attention_cpu", function(fastdiff::attention_cpu), METH_FASTCALL, "Attention on the CPU."},
    {"group_norm_cpu", function(fastdiff::group_norm_cpu), METH_FASTCALL, "Group norm on the CPU."},
    {"gram_cpu", function(fastdiff::gram_cpu), METH_FASTCALL, "Inner products on the CPU."},
    {"token_stats_cpu", function(fastdiff::token_stats_cpu), METH_FASTCALL, "Draws from logits on the CPU."},
#ifdef FASTDIFF_CUDA
    {"attention_cuda", function(fastdiff::attention_cuda), METH_FASTCALL, "Attention on a CUDA device."},
    {"group_norm_cuda", function(fastdiff::group_norm_cuda), METH_FASTCALL, "Group norm on a CUDA device."},
    {"gram_cuda", function(fastdiff::gram_cuda), METH_FASTCALL, "Inner products on a CUDA device."},
    {"token_stats_cuda", function(fastdiff::token_stats_cuda), METH_FASTCALL, "Draws from logits on a CUDA device."},
    {"solver_step_cuda", function(fastdiff::solver_step_cuda), METH_FASTCALL, "One row of a plan, on a CUDA device."},
    {"solver_step_rows_cuda", function(fastdiff::solver_step_rows_cuda), METH_FASTCALL, "The same, on a CUDA device."},
    {"solver_step_pack", function(fastdiff::solver_step_pack), METH_FASTCALL, "One row as an entry of a device table."},
    {"solver_step_table", function(fastdiff::solver_step_table), METH_FASTCALL, "The next entry of a device table."},
#endif
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  if (PyModule_AddFunctions(m.ptr(), ops) != 0) throw py::error_already_set();
  m.def("bind", &bind, "Give the module what it needs from torch.");
  m.def("build_info", &build_info, "What this binary was built with and holds.");
  m.def("usable_isas", &usable_isas, "The instruction sets that this build and this machine have.");
  m.def("set_isa", &set_isa, "Use this instruction set from now on; for tests.");
}
