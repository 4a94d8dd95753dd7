// solver_step with its argument in device memory: rows are packed on the host, laid side by side, and a counter on the
// device says which is next, so that a captured launch serves every row of every plan.
#pragma once

#include <cstring>

#include "solver_step_launch.h"

namespace fastdiff::cuda {

// One row ready to launch, and how it wants to be launched. Rows of one table differ in width at most, and any smaller
// width than a row's own serves it too.
struct PackedStep {
  alignas(8) unsigned char bytes[sizeof(WeightedStep<double>)];
  int64_t size;       // of a row of the table, in bytes
  int64_t precision;  // bytes of the compute type
  int64_t width;      // elements a thread takes
  Grid grid;
};

struct Pack {
  PackedStep* packed;

  template <class T, int W, class S>
  const char* run(const S& step, Grid grid) const {
    static_assert(sizeof step <= sizeof packed->bytes && sizeof step % 8 == 0);
    std::memcpy(packed->bytes, &step, sizeof step);
    packed->size = sizeof step, packed->precision = sizeof(T), packed->width = W, packed->grid = grid;
    return nullptr;
  }
};

// What is wrong with the step, or null. weighted: whether the table's rows are WeightedSteps.
inline const char* pack(const SolverStep& step, bool weighted, PackedStep& packed) {
  return prepare(step, weighted, Pack{&packed});
}

// A table of packed rows on the device. times is [rows, t_words] and t [t_words], in 32-bit words.
struct StepTable {
  const void* steps;
  int64_t rows;
  int64_t* counter;
  const uint32_t* times;
  uint32_t* t;
  int64_t t_words;
  int64_t precision, width;
  Grid grid;
  bool weighted;
};

// Launches row *counter on `stream` (a cudaStream_t) of the current device, then moves the counter and the model's time
// on to the next. Null, or what went wrong.
const char* solver_step_table(const StepTable& table, void* stream);

}  // namespace fastdiff::cuda
