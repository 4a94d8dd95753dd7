// group_norm for one instruction set (FASTDIFF_ISA).
#include "../group_norm.h"

#include <cmath>

#include "convert.h"

namespace fastdiff::cpu {
namespace {

double value(const ChannelValues& v, int64_t sample, int64_t channel, double otherwise) {
  if (v.data == nullptr) return otherwise;
  float out;
  load_run(Operand{const_cast<void*>(v.data), v.dtype, {}}, sample * v.row + channel, 1, 1, &out);
  return out;
}

template <class T>
void group(const GroupNorm& n, int64_t task) {
  const int64_t sample = task / n.groups, size = n.channels / n.groups, first = task % n.groups * size;
  const auto at = [&](int64_t c, int64_t p) {
    return n.channels_last ? (sample * n.positions + p) * n.channels + c : (sample * n.channels + c) * n.positions + p;
  };
  const T* x = static_cast<const T*>(n.x);
  double mean = 0, square = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t c = first; c < first + size; ++c) {
      const double add = value(n.add, sample, c, 0);
      for (int64_t p = 0; p < n.positions; ++p) {
        const double v = widen(x[at(c, p)]) + add;
        if (pass == 0) mean += v;
        else square += (v - mean) * (v - mean);
      }
    }
    if (pass == 0) mean /= size * n.positions;
  }
  const double rstd = 1 / std::sqrt(square / (size * n.positions) + n.eps);
  for (int64_t c = first; c < first + size; ++c) {
    const double add = value(n.add, sample, c, 0), weight = value(n.weight, 0, c, 1), bias = value(n.bias, 0, c, 0);
    const double scale = 1 + value(n.scale, sample, c, 0), shift = value(n.shift, sample, c, 0);
    for (int64_t p = 0; p < n.positions; ++p) {
      const double h = ((widen(x[at(c, p)]) + add - mean) * rstd * weight + bias) * scale + shift;
      narrow(static_cast<float>(n.act == Activation::silu ? h / (1 + std::exp(-h)) : h), static_cast<T*>(n.y)[at(c, p)]);
    }
  }
}

}  // namespace

namespace FASTDIFF_ISA {

void group_norm(const GroupNorm& norm, int64_t first, int64_t last) {
  for (int64_t task = first; task < last; ++task) {
    switch (norm.dtype) {
      case DType::f16: group<Half>(norm, task); break;
      case DType::bf16: group<BFloat>(norm, task); break;
      default: group<float>(norm, task);
    }
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
