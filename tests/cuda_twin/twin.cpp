// Runs solver_step's kernel code on the CPU, thread by thread over the grid that the launcher would ask for. Cases come
// on standard input, each the SolverStep with (buffer << 32) + byte offset for a pointer, the number of buffers, and
// each buffer's size and bytes. On standard output go a report and the buffers as the kernel left them.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/cuda/solver_step_math.h"
#include "../../csrc/cuda/solver_step_table.h"

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
    static_assert(sizeof step <= 4096);
    PackedStep packed;
    Pack{&packed}.run<T, W>(step, grid);
    const Step<T>& s = *reinterpret_cast<const Step<T>*>(packed.bytes);
    *report = {sizeof(T), W, grid.x, grid.y, {}};
    for (int64_t y = 0; y < grid.y; ++y)
      for (int64_t x = 0; x < grid.x; ++x)
        for (int thread = 0; thread < kThreads<W>; ++thread) solver_step_thread<T, W>(s, x, y, grid.y, thread);
    return nullptr;
  }
};

// Each buffer is an allocation of its own, so that the sanitizer sees its end.
struct Buffer {
  int64_t size;
  char* memory;
};

void read(void* to, size_t size) {
  if (size && fread(to, size, 1, stdin) != 1) exit(2);
}

std::vector<Buffer> read_buffers() {
  int64_t count;
  read(&count, sizeof count);
  std::vector<Buffer> buffers(static_cast<size_t>(count));
  for (Buffer& b : buffers) {
    read(&b.size, sizeof b.size);
    b.memory = static_cast<char*>(malloc(static_cast<size_t>(b.size)));
    read(b.memory, static_cast<size_t>(b.size));
  }
  return buffers;
}

template <class P>
void relocate(P& pointer, const std::vector<Buffer>& buffers) {
  const uintptr_t code = reinterpret_cast<uintptr_t>(pointer);
  if (!code) return;
  const Buffer& b = buffers[(code >> 32) - 1];
  pointer = reinterpret_cast<P>(b.memory + (code & 0xffffffffu));
}

void run_case(SolverStep& step) {
  std::vector<Buffer> buffers = read_buffers();
  for (Operand* v : {&step.x, &step.base, &step.m, &step.m_uncond, &step.out_x, &step.out_base, &step.out_d,
                     &step.out_input})
    relocate(v->data, buffers);
  for (Operand& v : step.history) relocate(v.data, buffers);
  relocate(step.guidance, buffers);
  relocate(step.threshold, buffers);
  relocate(step.seeds, buffers);

  Report report{};
  if (const char* text = prepare(step, OnHost{&report})) snprintf(report.text, sizeof report.text, "%s", text);
  fwrite(&report, sizeof report, 1, stdout);
  for (Buffer& b : buffers) {
    fwrite(b.memory, 1, static_cast<size_t>(b.size), stdout);
    free(b.memory);
  }
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::SolverStep step;
  while (fread(&step, sizeof step, 1, stdin) == 1) fastdiff::cuda::run_case(step);
  return 0;
}
