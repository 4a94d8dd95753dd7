#include "attention.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

#define FASTDIFF_DECLARE(isa) \
  namespace isa {             \
  void attention(const Attention&, int64_t, int64_t, int64_t); \
  }
FASTDIFF_FOR_EACH_ISA(FASTDIFF_DECLARE)
#undef FASTDIFF_DECLARE

namespace {

constexpr int64_t kProductsPerThread = 1 << 20;  // less than this and waking a thread costs more than it saves
constexpr int kMaxThreads = 256;

// A task is `rows` queries of one head.
struct Tasks {
  const Attention& attention;
  int64_t rows;

  Tasks(const Attention& a, int threads) : attention(a), rows(kMostRows) {
    while (rows > kLeastRows && count() < 4 * threads) rows /= 2;
  }

  int64_t count() const { return attention.batch * attention.heads * ((attention.queries + rows - 1) / rows); }

  static void run(const void* context, int64_t first, int64_t last) {
    const auto& [attention, rows] = *static_cast<const Tasks*>(context);
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
  const Tasks tasks(a, threads);
  parallel(tasks.count(), threads, Tasks::run, &tasks);
}

}  // namespace fastdiff::cpu
