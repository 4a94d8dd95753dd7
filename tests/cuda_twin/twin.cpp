// solver_step's kernel code on the CPU. Cases come on standard input, each the SolverStep and its buffers. On standard
// output go a report and the buffers as the kernel left them.
#include "buffers.h"
#include "on_host.h"

namespace fastdiff::cuda {
namespace {

void run_case(SolverStep& step, bool weighted) {
  std::vector<Buffer> buffers = read_buffers();
  for (Operand* v : {&step.x, &step.base, &step.m, &step.m_uncond, &step.out_x, &step.out_base, &step.out_d,
                     &step.out_input, &step.others[0], &step.others[1], &step.state, &step.out_state})
    relocate(v->data, buffers);
  for (Operand& v : step.history) relocate(v.data, buffers);
  relocate(step.guidance, buffers);
  relocate(step.threshold, buffers);
  relocate(step.seeds, buffers);
  relocate(step.weights, buffers);

  Report report{};
  if (const char* text = prepare(step, weighted || step.weights, OnHost{&report})) snprintf(report.text, sizeof report.text, "%s", text);
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

// With an argument every step is an entry of a table that has steps with weights.
int main(int count, char**) {
  fastdiff::SolverStep step;
  while (fread(&step, sizeof step, 1, stdin) == 1) fastdiff::cuda::run_case(step, count > 1);
  return 0;
}
