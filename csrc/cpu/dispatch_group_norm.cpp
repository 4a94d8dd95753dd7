#include <algorithm>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "group_norm.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

namespace {

constexpr int64_t kElementsPerThread = 1 << 14;  // less than this and waking a thread costs more than it saves
constexpr int64_t kMeasured = 1 << 17;  // elements of a slice: its statistics end in some work per channel,
constexpr int64_t kMeasuredRows = 64;   // which is little to that many rows
constexpr int64_t kApplied = 1 << 15;
constexpr int64_t kCoefficients = 1 << 14;   // channels whose coefficients one thread makes
constexpr uintptr_t kLargeOutput = 1 << 25;  // bytes; malloc keeps smaller ones, whose pages are there already

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

// Of even size, with at most so many rows.
Slices slices(const GroupNorm& norm, int64_t max_rows) {
  const int64_t count = (norm.positions - 1) / std::max<int64_t>(max_rows, 1) + 1;
  return {(norm.positions - 1) / count + 1, count, nullptr, nullptr};
}

// channels_last beyond the caches, in three phases: the moments of each slice, the coefficients of each channel from
// the moments of all slices, the output. Slices are whole rows, because memory is read fastest in its own order; a
// group's elements are spread over all of them, so its statistics are merged.
void run_in_slices(const GroupNorm& norm, int threads) {
  Slices measured = slices(norm, std::max(kMeasured / norm.channels, kMeasuredRows));
  Slices applied = slices(norm, kApplied / norm.channels);
  const std::unique_ptr<Moments[]> moments(new Moments[norm.batch * measured.count * norm.groups]);
  const std::unique_ptr<float[]> affine(new float[3 * norm.batch * norm.channels]);
  measured.moments = moments.get(), measured.affine = applied.affine = affine.get();
  const Kernels& run = kernels();
  parallel(norm.batch * measured.count, threads, [&](int64_t first, int64_t last) {
    run.group_norm_moments(norm, measured, first, last);
  });
  const int makers = norm.batch * norm.channels > kCoefficients ? threads : 1;
  parallel(norm.batch * norm.groups, makers, [&](int64_t first, int64_t last) {
    run.group_norm_affine(norm, measured, first, last);
  });
  parallel(norm.batch * applied.count, threads, [&](int64_t first, int64_t last) {
    run.group_norm_rows(norm, applied, first, last);
  });
}

}  // namespace

int useful_threads(const GroupNorm& norm) {
  return threads_for(norm.batch * norm.channels * norm.positions, kElementsPerThread);
}

void group_norm(const GroupNorm& norm, int threads) {
  threads = std::min(threads, useful_threads(norm));
  ask_for_large_pages(norm);
  const int64_t together = norm.channels_last ? groups_together(norm) : 1;
  if (together == 0) return run_in_slices(norm, threads);
  const auto run = kernels().group_norm;
  parallel(norm.batch * norm.groups / together, threads, [&, run](int64_t first, int64_t last) {
    run(norm, first, last);
  });
}

}  // namespace fastdiff::cpu
