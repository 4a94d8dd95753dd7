#include "group_norm.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

#define FASTDIFF_DECLARE(isa) \
  namespace isa {             \
  void group_norm(const GroupNorm&, int64_t, int64_t); \
  }
FASTDIFF_FOR_EACH_ISA(FASTDIFF_DECLARE)
#undef FASTDIFF_DECLARE

namespace {

void run(const void* context, int64_t first, int64_t last) {
  const GroupNorm& norm = *static_cast<const GroupNorm*>(context);
  switch (isa()) {
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::group_norm(norm, first, last);
    FASTDIFF_FOR_EACH_ISA(FASTDIFF_CASE)
#undef FASTDIFF_CASE
  }
}

}  // namespace

int useful_threads(const GroupNorm& norm) { return norm.batch * norm.channels * norm.positions > (1 << 16) ? 256 : 1; }

void group_norm(const GroupNorm& norm, int threads) { parallel(norm.batch * norm.groups, threads, run, &norm); }

}  // namespace fastdiff::cpu
