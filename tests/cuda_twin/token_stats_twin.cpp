// Runs token_stats' kernel code on a model of the device (grid.h), as the launcher would. Cases come on standard input,
// each the struct TokenStats, the lot that says who goes first, and its buffers (buffers.h). On standard output go a
// report and the buffers as the kernels left them.
#include "../../csrc/cuda/token_cut_kernel.h"
#include "../../csrc/cuda/token_stats_kernels.h"
#include "buffers.h"
#include "grid.h"

#include <cstring>
#include <memory>

namespace fastdiff::cuda {
namespace {

struct Case {
  TokenStats stats;
  uint32_t lot;
};

struct Report {
  int64_t parts, aligned, cut;
};

void run_case(Case& c) {
  TokenStats& t = c.stats;
  std::vector<Buffer> buffers = read_buffers();
  relocate(t.logits.data, buffers), relocate(t.uncond.data, buffers);
  relocate(t.current, buffers), relocate(t.positions, buffers);
  relocate(t.seeds, buffers), relocate(t.index, buffers);
  relocate(t.temperature, buffers), relocate(t.guidance, buffers), relocate(t.shift, buffers);
  relocate(t.numbers, buffers), relocate(t.tokens, buffers);
  const auto bytes = static_cast<size_t>(workspace_of(t));
  const std::unique_ptr<double[]> workspace(new double[bytes / sizeof(double)]);
  memset(workspace.get(), 0xff, bytes);
  const TokenCall call = call_of(t, workspace.get());
  if (call.cut) {
    run_grid({call.rows, kCutThreads, int(sizeof(CutShared)), 1, c.lot},
             [&](int64_t block, int thread, char* shared) { token_cut_thread(call, block, thread, shared); });
  }
  run_grid({call.rows * call.parts, kTokenThreads, int(sizeof(PartShared)), 1, c.lot},
           [&](int64_t block, int thread, char* shared) { token_part_thread(call, block, thread, shared); });
  run_grid({call.rows, kTokenThreads, int(sizeof(RowShared)), 1, c.lot},
           [&](int64_t block, int thread, char* shared) { token_row_thread(call, block, thread, shared); });
  const Report report = {call.parts, call.aligned, call.cut != nullptr};
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::cuda::Case c;
  while (fread(&c, sizeof c, 1, stdin) == 1) fastdiff::cuda::run_case(c);
  return 0;
}
