// Runs solver_step's kernel code on the CPU, thread by thread over the grid that the launcher would ask for. Cases come
// on standard input, each the SolverStep and its buffers. On standard output go a report and the buffers as the kernel
// left them.
#include "../../csrc/cuda/solver_step_table.h"
#include "buffers.h"

namespace fastdiff::cuda {
namespace {

struct Report {
  int64_t precision, width, blocks_x, blocks_y;
  char text[96];
};

// Every step goes through the bytes of a table entry.
struct OnHost {
  Report* report;

  template <class T, int W>
  const char* run(const Step<T>& step, Grid grid) const {
    return run_entry<T, W, Step<T>>(step, grid);
  }

  template <class T, int W>
  const char* run(const WeightedStep<T>& step, Grid grid) const {
    return run_entry<T, W, MixedStep<T>>(step, grid);
  }

 private:
  template <class T, int W, class Entry, class S>
  const char* run_entry(const S& step, Grid grid) const {
    static_assert(sizeof step <= 4096 && sizeof(Entry) == sizeof step);
    PackedStep packed;
    Pack{&packed}.run<T, W>(step, grid);
    const Entry& s = *reinterpret_cast<const Entry*>(packed.bytes);
    *report = {sizeof(T), W, grid.x, grid.y, {}};
    for (int64_t y = 0; y < grid.y; ++y)
      for (int64_t x = 0; x < grid.x; ++x)
        for (int thread = 0; thread < kThreads<W>; ++thread) solver_step_thread<T, W>(s, x, y, grid.y, thread);
    return nullptr;
  }
};

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
