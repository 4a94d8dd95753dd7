// solver_step_rows' kernel code on a model of the device (grid.h). Cases come on standard input, each the SolverStepRows and its
// buffers. On standard output go a report and the buffers as the kernel left them; the report says whether solver_step's
// kernel leaves the same bytes where it runs one sample after another.
#include <cstring>

#include "../../csrc/cuda/solver_step_rows_kernels.h"
#include "../../csrc/sample_step.h"
#include "buffers.h"
#include "grid.h"
#include "on_host.h"

namespace fastdiff::cuda {
namespace {

struct RowsReport {
  Report report;
  int64_t same;
};

struct RowsOnHost {
  Report* report;

  template <class T, int W, template <class> class All>
  const char* run(const All<T>& all, Grid grid) const {
    *report = {sizeof(T), W, grid.x, grid.y, {}};
    using Shared = RowsShared<typename All<T>::Own>;
    for (int64_t y = 0; y < grid.y; ++y) {
      if (!moves(all, y, grid.y)) continue;
      run_grid({grid.x, kThreads<W>, int(sizeof(Shared)), 1, kLot}, [&](int64_t x, int thread, char* shared) {
        rows_thread<T, W>(all, x, y, grid.y, thread, *reinterpret_cast<Shared*>(shared));
      });
    }
    return nullptr;
  }

 private:
  static constexpr uint32_t kLot = 7;  // who goes first

  // Whether a block in this row of the grid has anything to do.
  template <class T>
  static bool moves(const Step<T>& all, const Lookup& lookup, int64_t y, int64_t grid_y) {
    for (int64_t sample = y; sample < all.size[0]; sample += grid_y)
      if (lookup.record(sample) != nullptr) return true;
    return false;
  }

  template <class All>
  static bool moves(const All& all, int64_t y, int64_t grid_y) {
    return moves(all, all.lookup, y, grid_y);
  }
};

SolverStepRows relocated(SolverStepRows step, const std::vector<Buffer>& buffers) {
  relocate(step.table, buffers), relocate(step.rows, buffers);
  for (int k = 0; k < step.buffers; ++k) relocate(step.buffer[k], buffers);
  for (Operand* v : {&step.layout, &step.m, &step.m_uncond, &step.out_input, &step.others[0], &step.others[1],
                     &step.state, &step.out_state})
    relocate(v->data, buffers);
  relocate(step.guidance, buffers), relocate(step.threshold, buffers), relocate(step.seeds, buffers);
  relocate(step.weights, buffers);
  return step;
}

std::vector<Buffer> copied(const std::vector<Buffer>& buffers) {
  std::vector<Buffer> copies = buffers;
  for (Buffer& b : copies) {
    const char* from = b.memory;
    b.memory = static_cast<char*>(malloc(static_cast<size_t>(b.size)));
    memcpy(b.memory, from, static_cast<size_t>(b.size));
  }
  return copies;
}

bool equal(const std::vector<Buffer>& a, const std::vector<Buffer>& b) {
  bool same = true;
  for (size_t k = 0; k < a.size(); ++k) same = same && !memcmp(a[k].memory, b[k].memory, static_cast<size_t>(a[k].size));
  return same;
}

void run_one_by_one(const SolverStepRows& step) {
  Report ignored;
  for (int64_t b = 0; b < step.size[0]; ++b) {
    if (step.rows[b] < 0 || step.rows[b] >= step.records) continue;
    prepare(sample_step(step, b), step.weights != nullptr, OnHost{&ignored});
  }
}

void run_case(const SolverStepRows& step) {
  std::vector<Buffer> buffers = read_buffers(), alone = copied(buffers);
  RowsReport report{};
  prepare_rows(relocated(step, buffers), RowsOnHost{&report.report});
  run_one_by_one(relocated(step, alone));
  report.same = equal(buffers, alone);
  for (const Buffer& b : alone) free(b.memory);
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::SolverStepRows step;
  while (fread(&step, sizeof step, 1, stdin) == 1) fastdiff::cuda::run_case(step);
  return 0;
}
