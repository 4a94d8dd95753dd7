#include <algorithm>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "group_norm.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

#define FASTDIFF_DECLARE(isa)                                                      \
  namespace isa {                                                                  \
  void group_norm(const GroupNorm&, int64_t, int64_t);                             \
  void group_norm_moments(const GroupNorm&, const Slices&, int64_t, int64_t);      \
  void group_norm_lines(const GroupNorm&, const Slices&, int64_t, int64_t);        \
  void group_norm_rows(const GroupNorm&, const Slices&, int64_t, int64_t);         \
  }
FASTDIFF_FOR_EACH_ISA(FASTDIFF_DECLARE)
#undef FASTDIFF_DECLARE

namespace {

constexpr int64_t kElementsPerThread = 1 << 14;  // less than this and waking a thread costs more than it saves
constexpr int64_t kMeasured = 1 << 17;          // elements of a slice: its statistics end in some work per channel,
constexpr int64_t kMeasuredRows = 64;           // which is little to that many rows
constexpr int64_t kApplied = 1 << 15;
constexpr int64_t kLines = 1 << 14;           // channels whose numbers one thread makes
constexpr uintptr_t kLargeOutput = 1 << 25;  // bytes; malloc keeps smaller ones, whose pages are there already
constexpr int kMaxThreads = 256;

// Fresh memory is given out page by page as it is written, which takes longer than the writing. Large pages make that
// rare; this is advice, so its failure does not matter.
void ask_for_large_pages([[maybe_unused]] const GroupNorm& norm) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 1 << 21;
  const uintptr_t first = reinterpret_cast<uintptr_t>(norm.y);
  const uintptr_t bytes = norm.batch * norm.channels * norm.positions * element_bytes(norm);
  if (bytes < kLargeOutput) return;
  const uintptr_t begin = (first + kPage - 1) / kPage * kPage, end = (first + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

struct Job {
  const GroupNorm& norm;
  Slices slices;
};

void groups(const void* context, int64_t first, int64_t last) {
  const GroupNorm& norm = *static_cast<const GroupNorm*>(context);
  switch (isa()) {
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::group_norm(norm, first, last);
    FASTDIFF_FOR_EACH_ISA(FASTDIFF_CASE)
#undef FASTDIFF_CASE
  }
}

// The three phases of a call in slices, each over tasks of its own.
#define FASTDIFF_PHASE(phase)                                                         \
  void phase(const void* context, int64_t first, int64_t last) {                      \
    const auto& [norm, slices] = *static_cast<const Job*>(context);                   \
    switch (isa()) { FASTDIFF_FOR_EACH_ISA(FASTDIFF_CASE) }                           \
  }
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::group_norm_moments(norm, slices, first, last);
FASTDIFF_PHASE(measure)
#undef FASTDIFF_CASE
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::group_norm_lines(norm, slices, first, last);
FASTDIFF_PHASE(prepare)
#undef FASTDIFF_CASE
#define FASTDIFF_CASE(name) \
  case Isa::name: return name::group_norm_rows(norm, slices, first, last);
FASTDIFF_PHASE(apply)
#undef FASTDIFF_CASE
#undef FASTDIFF_PHASE

void in_slices(const GroupNorm& norm, int threads) {
  const auto slices = [&](int64_t most) {  // of even size, with at most so many rows
    const int64_t count = (norm.positions - 1) / std::max<int64_t>(most, 1) + 1;
    return Slices{(norm.positions - 1) / count + 1, count, nullptr, nullptr};
  };
  Job job{norm, slices(std::max(kMeasured / norm.channels, kMeasuredRows))};
  const std::unique_ptr<Moments[]> moments(new Moments[norm.batch * job.slices.count * norm.groups]);
  const std::unique_ptr<float[]> numbers(new float[3 * norm.batch * norm.channels]);
  job.slices.moments = moments.get(), job.slices.lines = numbers.get();
  parallel(norm.batch * job.slices.count, threads, measure, &job);
  parallel(norm.batch * norm.groups, norm.batch * norm.channels > kLines ? threads : 1, prepare, &job);
  Job last{norm, slices(kApplied / norm.channels)};
  last.slices.lines = numbers.get();
  parallel(norm.batch * last.slices.count, threads, apply, &last);
}

}  // namespace

int useful_threads(const GroupNorm& norm) {
  const int64_t threads = norm.batch * norm.channels * norm.positions / kElementsPerThread;
  return static_cast<int>(std::clamp<int64_t>(threads, 1, kMaxThreads));
}

void group_norm(const GroupNorm& norm, int threads) {
  threads = std::min(threads, useful_threads(norm));
  ask_for_large_pages(norm);
  const int64_t together = norm.channels_last ? groups_together(norm) : 1;
  if (together == 0) return in_slices(norm, threads);
  parallel(norm.batch * norm.groups / together, threads, groups, &norm);
}

}  // namespace fastdiff::cpu
