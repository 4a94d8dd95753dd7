// gram on the CPU: what the binding calls.
#pragma once

#include "../gram.h"

namespace fastdiff::cpu {

constexpr int64_t kShortSum = 512;             // elements whose products are summed in the compute type
constexpr int64_t kGramPart = 32 * kShortSum;  // elements of a task

// A sample is cut up by its own size, so that its result depends neither on the batch nor on threads.
static inline int64_t parts_per_sample(const Gram& gram) {
  return (elements_per_sample(gram) + kGramPart - 1) / kGramPart;
}

// How many threads are worth waking for this call, at least 1.
int useful_threads(const Gram& gram);

// Uses at most `threads` threads; the result does not depend on how many.
void gram(const Gram& gram, int threads);

}  // namespace fastdiff::cpu
