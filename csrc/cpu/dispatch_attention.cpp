#include <algorithm>

#include "attention.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

namespace {

constexpr int64_t kProductsPerThread = 1 << 20;  // less than this and waking a thread costs more than it saves
constexpr int kTasksPerThread = 4;

int64_t tasks(const Attention& a, int64_t rows) { return a.batch * a.heads * ((a.queries + rows - 1) / rows); }

}  // namespace

int useful_threads(const Attention& a) {
  return threads_for(a.batch * a.heads * a.queries * a.keys * a.head_size, kProductsPerThread);
}

// A task is `rows` queries of one head: many, so that keys and values are read seldom, unless threads had none left.
void attention(const Attention& a, int threads) {
  threads = std::min(threads, useful_threads(a));
  int64_t rows = kMaxRows;
  while (rows > kMinRows && tasks(a, rows) < kTasksPerThread * threads) rows /= 2;
  const auto run = kernels().attention;
  parallel(tasks(a, rows), threads, [&, run, rows](int64_t first, int64_t last) { run(a, rows, first, last); });
}

}  // namespace fastdiff::cpu
