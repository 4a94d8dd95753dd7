// Runs solver_step's kernel code on the CPU, thread by thread over the grid that the launcher would ask for.
#pragma once

#include "../../csrc/cuda/solver_step_table.h"

namespace fastdiff::cuda {

struct Report {
  int64_t precision, width, blocks_x, blocks_y;
  char text[96];
};

// Every step goes through the bytes of a table entry.
struct OnHost {
  Report* report;

  template <class T, int W>
  const char* run(const Step<T>& step, Grid grid) const {
    return run_entry<T, W, Step<T>>(step, grid);
  }

  template <class T, int W>
  const char* run(const WeightedStep<T>& step, Grid grid) const {
    return run_entry<T, W, MixedStep<T>>(step, grid);
  }

 private:
  template <class T, int W, class Entry, class S>
  const char* run_entry(const S& step, Grid grid) const {
    static_assert(sizeof step <= 4096 && sizeof(Entry) == sizeof step);
    PackedStep packed;
    Pack{&packed}.run<T, W>(step, grid);
    const Entry& s = *reinterpret_cast<const Entry*>(packed.bytes);
    *report = {sizeof(T), W, grid.x, grid.y, {}};
    for (int64_t y = 0; y < grid.y; ++y)
      for (int64_t x = 0; x < grid.x; ++x)
        for (int thread = 0; thread < kThreads<W>; ++thread) solver_step_thread<T, W>(s, x, y, grid.y, thread);
    return nullptr;
  }
};

}  // namespace fastdiff::cuda
