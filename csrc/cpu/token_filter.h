// Which tokens of a row are drawn: of the largest logits top_k, and of those the ones that hold top_p of the mass.
// Compiled once, for any machine: selecting goes token by token.
#pragma once

#include <cstdint>

namespace fastdiff::cpu {

// Keeps the tokens above `least` and the first `equal` of those at it.
struct Cut {
  float least;
  int64_t equal;
};

struct WeighedToken {
  float logit, weight;
};

// The k-th largest of `count` >= k >= 1 values, which are put in another order.
float kth_largest(float* values, int64_t count, int64_t k);

// The fewest tokens, the largest logits first, whose weights reach `mass`; equal logits have equal weights. Puts the
// tokens in another order.
Cut nucleus(WeighedToken* tokens, int64_t count, double mass);

}  // namespace fastdiff::cpu
