#include <algorithm>

#include "isa.h"
#include "parallel.h"
#include "token_stats.h"

namespace fastdiff::cpu {

namespace {

constexpr int64_t kTokensPerThread = 1 << 16;  // less than this and waking a thread costs more than it saves

}  // namespace

int useful_threads(const TokenStats& t) {
  const int64_t rows = t.batch * t.length;
  return static_cast<int>(std::min<int64_t>(rows, threads_for(rows * t.vocabulary, kTokensPerThread)));
}

// A task is a row.
void token_stats(const TokenStats& t, int threads) {
  const auto run = kernels().token_stats;
  parallel(t.batch * t.length, std::min(threads, useful_threads(t)), [&, run](int64_t first, int64_t last) {
    run(t, first, last);
  });
}

}  // namespace fastdiff::cpu
