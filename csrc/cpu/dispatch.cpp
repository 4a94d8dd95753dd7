#include "isa.h"
#include "parallel.h"
#include "solver_step.h"

namespace fastdiff::cpu {

#define FASTDIFF_DECLARE(isa)                              \
  namespace isa {                                          \
  int64_t solver_step_blocks(const SolverStep&);           \
  void solver_step(const SolverStep&, int64_t, int64_t);   \
  }
FASTDIFF_FOR_EACH_ISA(FASTDIFF_DECLARE)
#undef FASTDIFF_DECLARE

namespace {

constexpr int64_t kWorkPerThread = 128;  // in blocks: less than this and waking a thread costs more than it saves
constexpr int64_t kNoiseWork = 3;        // drawing a block of noise takes as long as the rest of three

constexpr int kMaxThreads = 256;

void run_blocks(const void* context, int64_t first, int64_t last) {
  const SolverStep& step = *static_cast<const SolverStep*>(context);
  switch (isa()) {
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::solver_step(step, first, last);
    FASTDIFF_FOR_EACH_ISA(FASTDIFF_CASE)
#undef FASTDIFF_CASE
  }
}

}  // namespace

int useful_threads(const SolverStep& step) {
  int64_t work = portable::solver_step_blocks(step);
  for (int j = 0; j < kMaxNoise; ++j) work += reads_noise(step.row, j) ? kNoiseWork * work : 0;
  const int64_t threads = work / kWorkPerThread;
  return threads < 1 ? 1 : threads > kMaxThreads ? kMaxThreads : static_cast<int>(threads);
}

void solver_step(const SolverStep& step, int threads) {
  const int useful = useful_threads(step);
  parallel(portable::solver_step_blocks(step), threads < useful ? threads : useful, run_blocks, &step);
}

}  // namespace fastdiff::cpu
