// The contract of token_stats: what samplers of discrete diffusion ask of each row of logits.
// fastdiff/ops/definitions/token_stats.py has the formulas.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastdiff {

constexpr int kMaxExcluded = 4;
// A temperature is taken as one between these: its inverse leaves 0 and -inf what they are when multiplied by it.
constexpr double kLeastTemperature = 0x1p-127, kLargestTemperature = 1e30;

// The order of the results, each [batch, length].
enum { kLogProb, kMaxProb, kMargin, kEntropy, kCurrentProb, kDrawnLogProb, kDrawnEntropy, kTokenNumbers };
enum { kArgmax, kSample, kTokenResults };

// [batch, length, vocabulary] logits at these strides, in elements; those of a row are neighbours.
struct Logits {
  const void* data;
  int64_t stride[2];
};

struct TokenStats {
  int64_t batch, length, vocabulary;
  DType dtype;                          // float32, float16 or bfloat16
  Logits logits, uncond;                // uncond.data may be null
  const int64_t *current, *positions;   // [batch, length], contiguous, or null
  const int64_t *seeds, *index;         // [batch] or null
  const double *temperature, *guidance, *shift;  // [batch] or null
  int64_t top_k;                        // 0 keeps all
  double top_p;                         // 1 keeps all
  int32_t excluded;
  int64_t exclude[kMaxExcluded];
  float* numbers;   // [kTokenNumbers, batch, length]
  int64_t* tokens;  // [kTokenResults, batch, length]
};

// At temperature 0 the sample is the argmax, and nothing is drawn.
#if defined(__CUDACC__)
__host__ __device__
#endif
static inline double bounded_temperature(double t) {
  return t < kLeastTemperature ? kLeastTemperature : t > kLargestTemperature ? kLargestTemperature : t;
}

}  // namespace fastdiff
