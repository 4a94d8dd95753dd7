// One row of a softmax, in powers of two, tile by tile of logits as a matrix product leaves them: four lanes share a
// row, and `half` says which of a lane's two rows.
#pragma once

#include <cmath>

#include "block.h"
#include "packet.h"

namespace fastdiff::cuda {

struct SoftmaxRow {
  float max = -INFINITY;  // the largest logit so far
  float sum = 0;          // of this lane's weights, relative to it

  // Logits become weights 2^(scale (logit - max)). Returns the factor that what came before decays by. The scale enters
  // after the difference, so that rounding is relative to it, and no weight is more than 1, however large logits are.
  template <int kCount>
  FASTDIFF_DEVICE float exponentiate(float (&s)[kCount][4], int half, float scale) {
    const float before = max;
#pragma unroll
    for (int n = 0; n < kCount; ++n) max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    max = fmaxf(max, shuffle_xor(max, 1));
    max = fmaxf(max, shuffle_xor(max, 2));
    const float origin = max == -INFINITY ? 0 : max;
    const float rescale = exp2_fast((before - origin) * scale);
    sum *= rescale;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        s[n][i] = exp2_fast((s[n][i] - origin) * scale);
        sum += s[n][i];
      }
    }
    return rescale;
  }

  // One over the sum of all weights of the row.
  FASTDIFF_DEVICE float inverse_sum() const {
    float all = sum + shuffle_xor(sum, 1);
    all += shuffle_xor(all, 2);
    return 1 / all;
  }
};

// Columns from `count` on get no weight.
template <int kCount>
FASTDIFF_DEVICE void mask(float (&s)[kCount][4], int64_t count, int lane) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n * 8 + lane % 4 * 2 + i % 2 >= count) s[n][i] = -INFINITY;
    }
  }
}

template <int kCount>
FASTDIFF_DEVICE void rescale(float (&out)[kCount][4], float first, float second) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    out[n][0] *= first, out[n][1] *= first;
    out[n][2] *= second, out[n][3] *= second;
  }
}

// The weights of 16 columns as the left factor of the next product.
template <bool kBf16>
FASTDIFF_DEVICE void a_fragment(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_halves(left[0], left[1], kBf16), a[1] = pack_halves(left[2], left[3], kBf16);
  a[2] = pack_halves(right[0], right[1], kBf16), a[3] = pack_halves(right[2], right[3], kBf16);
}

}  // namespace fastdiff::cuda
