// What one thread of solver_step_rows does. This also compiles as plain C++, which is how it is tested without a GPU.
#pragma once

#include "block.h"
#include "solver_step_rows_math.h"

namespace fastdiff::cuda {

// In 64-bit words: the step of the block's sample, and the record that it is made of.
template <class Own>
struct RowsShared {
  int64_t own[sizeof(Own) / 8], record[sizeof(Record) / 8];
  bool moves;
};

template <int kThreadsOfBlock>
FASTDIFF_DEVICE void copy_words(int64_t* to, const void* from, int words, int thread) {
  for (int k = thread; k < words; k += kThreadsOfBlock) to[k] = static_cast<const int64_t*>(from)[k];
}

// A block takes the same stretch of elements in every grid_y-th sample, one after the other.
template <class T, int W, template <class> class All>
FASTDIFF_DEVICE void rows_thread(const All<T>& all, int64_t block_x, int64_t block_y, int64_t grid_y, int thread,
                                 RowsShared<typename All<T>::Own>& shared) {
  using Own = typename All<T>::Own;
  Own& own = *reinterpret_cast<Own*>(shared.own);
  copy_words<kThreads<W>>(shared.own, static_cast<const Own*>(&all), sizeof(Own) / 8, thread);
  const int64_t element = (block_x * kThreads<W> + thread) * W;
  for (int64_t sample = block_y; sample < all.size[0]; sample += grid_y) {
    const Record* record = all.lookup.record(sample);
    if (record == nullptr) continue;  // for all threads alike
    copy_words<kThreads<W>>(shared.record, record, sizeof(Record) / 8, thread);
    sync_block();  // also with those who were still busy with the sample before
    if (thread == 0) shared.moves = take_record(own, all, *reinterpret_cast<const Record*>(shared.record), sample);
    sync_block();
    if (shared.moves && element < all.elements) solver_step_elements<T, W>(own, sample, element);
  }
}

}  // namespace fastdiff::cuda
