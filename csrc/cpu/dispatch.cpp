#include "attention.h"
#include "isa.h"
#include "parallel.h"
#include "solver_step.h"

namespace fastdiff::cpu {

#define FASTDIFF_DECLARE(isa)                                    \
  namespace isa {                                                \
  int64_t solver_step_blocks(const SolverStep&);                 \
  void solver_step(const SolverStep&, int64_t, int64_t);         \
  void attention(const Attention&, int64_t, int64_t, int64_t);   \
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

namespace {

constexpr int64_t kProductsPerThread = 1 << 20;  // less than this and waking a thread costs more than it saves

// A task is `rows` queries of one head.
struct AttentionTasks {
  const Attention& attention;
  int64_t rows;

  AttentionTasks(const Attention& a, int threads) : attention(a), rows(kMostRows) {
    while (rows > kLeastRows && count() < 4 * threads) rows /= 2;
  }

  int64_t count() const { return attention.batch * attention.heads * ((attention.queries + rows - 1) / rows); }

  static void run(const void* context, int64_t first, int64_t last) {
    const auto& [attention, rows] = *static_cast<const AttentionTasks*>(context);
    switch (isa()) {
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::attention(attention, rows, first, last);
      FASTDIFF_FOR_EACH_ISA(FASTDIFF_CASE)
#undef FASTDIFF_CASE
    }
  }
};

}  // namespace

int useful_threads(const Attention& a) {
  const int64_t threads = a.batch * a.heads * a.queries * a.keys * a.head_size / kProductsPerThread;
  return threads < 1 ? 1 : threads > kMaxThreads ? kMaxThreads : static_cast<int>(threads);
}

void attention(const Attention& a, int threads) {
  const int useful = useful_threads(a);
  threads = threads < useful ? threads : useful;
  const AttentionTasks tasks(a, threads);
  parallel(tasks.count(), threads, AttentionTasks::run, &tasks);
}

}  // namespace fastdiff::cpu
