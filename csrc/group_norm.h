// The contract of group_norm: y = act(GN(x + add) * (1 + scale) + shift) in one call.
#pragma once

#include "dtype.h"

namespace fastdiff {

// A value for each channel, or for each (sample, channel): element (b, c) at b * row + c; data is null where absent.
// It has its own dtype, so that a half model with float32 norms, or a slice of a wider embedding, is read as it is.
struct ChannelValues {
  const void* data;
  DType dtype;
  int64_t row;  // 0 where all samples share the values
};

enum class Activation : int32_t { none, silu };

struct GroupNorm {
  const void* x;
  void* y;      // x's dtype and layout; overlaps nothing
  DType dtype;  // f32, f16 or bf16; statistics and arithmetic in float32
  int64_t batch, channels, positions;
  int64_t groups;      // divides channels
  // Element (b, c, p) lies at (b * positions + p) * channels + c, else at (b * channels + c) * positions + p.
  bool channels_last;
  float eps;
  ChannelValues weight, bias, add, scale, shift;
  Activation act;
};

}  // namespace fastdiff
