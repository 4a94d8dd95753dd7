// The arithmetic of group_norm's kernels: packets, moments and their merge, the activation.
#pragma once

#include "../group_norm.h"
#include "block.h"
#include "group_norm_slabs.h"
#include "packet.h"

namespace fastdiff::cuda {

constexpr int kWarp = 32;

// How elements are accessed: 16 bytes at a time.
template <DType kDType>
struct Wide {
  static constexpr int kWidth = kDType == DType::f32 ? 4 : 8, kShared = 16;
  using Values = Packet<float, kWidth>;

  static FASTDIFF_DEVICE void copy(char* shared, const char* global, DType) { cp_async_16(shared, global, true); }

  static FASTDIFF_DEVICE Values load(const char* global, DType) {
    Values p;
    p.template load<16>(global, false);
    return p;
  }

  static FASTDIFF_DEVICE Values load_shared(const char* shared) {
    Values p;
    split_words(*reinterpret_cast<const uint4*>(shared), p.word);
    return p;
  }

  static FASTDIFF_DEVICE void unpack(const Values& p, DType, float (&v)[kWidth]) { cuda::unpack(p, kDType, v); }

  static FASTDIFF_DEVICE void store(char* global, DType, const float (&v)[kWidth]) {
    cuda::store<float, kWidth>(Operand{global, kDType, {}}, 0, v);
  }
};

// One at a time, where rows are not aligned for more.
struct Narrow {
  static constexpr int kWidth = 1, kShared = 4;
  using Values = Packet<float, 1>;

  static FASTDIFF_DEVICE void copy(char* shared, const char* global, DType dtype) {
    *reinterpret_cast<uint32_t*>(shared) = load(global, dtype).word[0];
  }

  static FASTDIFF_DEVICE Values load(const char* global, DType dtype) {
    Values p;
    if (dtype == DType::f32) p.load<4>(global, false);
    else p.load<2>(global, false);
    return p;
  }

  static FASTDIFF_DEVICE Values load_shared(const char* shared) {
    return {{*reinterpret_cast<const uint32_t*>(shared)}};
  }

  static FASTDIFF_DEVICE void unpack(const Values& p, DType dtype, float (&v)[1]) { cuda::unpack(p, dtype, v); }

  static FASTDIFF_DEVICE void store(char* global, DType dtype, const float (&v)[1]) {
    cuda::store<float, 1>(Operand{global, dtype, {}}, 0, v);
  }
};

FASTDIFF_DEVICE float element(const void* data, DType dtype, int64_t at) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[at];
  if (dtype == DType::f64) return static_cast<float>(static_cast<const double*>(data)[at]);
  float low, high;
  unpack_halves(static_cast<const uint16_t*>(data)[at], dtype == DType::bf16, low, high);
  return low;
}

FASTDIFF_DEVICE float value(const ChannelValues& v, int64_t sample, int64_t channel, float absent) {
  return v.data ? element(v.data, v.dtype, sample * v.row + channel) : absent;
}

// To 2 units in the last place; 0 for a divisor from 2^126 on.
FASTDIFF_DEVICE float fast_divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

FASTDIFF_DEVICE float rsqrt(float v) {
#if defined(__CUDA_ARCH__)
  return rsqrtf(v);
#else
  return 1.0f / std::sqrt(v);
#endif
}

// h / (1 + exp(-h)), to a few units in the last place of the larger of h and 1.
FASTDIFF_DEVICE float silu(float h) {
#if defined(__CUDA_ARCH__)
  return __fdividef(h, 1.0f + __expf(-h));
#else
  return h / (1.0f + std::exp(-h));
#endif
}

// Mean and sum of squared deviations in each of W places (Welford): one pass, and no pivot has to be good.
template <int W>
struct Moments {
  float count = 0, mean[W] = {}, m2[W] = {};

  FASTDIFF_DEVICE void add(const float (&v)[W]) {
    count += 1;
    const float inverse = fast_divide(1.0f, count);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const float delta = v[i] - mean[i];
      mean[i] += delta * inverse;
      m2[i] += delta * (v[i] - mean[i]);
    }
  }

  // Over all places, which have the same count (Chan et al.): the mean of means, and what they deviate from it.
  FASTDIFF_DEVICE void merged(float& all_mean, float& all_m2) const {
    all_mean = 0, all_m2 = 0;
#pragma unroll
    for (int i = 0; i < W; ++i) all_mean += mean[i] * (1.0f / W);
#pragma unroll
    for (int i = 0; i < W; ++i) all_m2 += m2[i] + count * ((mean[i] - all_mean) * (mean[i] - all_mean));
  }
};

FASTDIFF_DEVICE float warp_sum(float v) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}

// The moments of get(0) .. get(count - 1) together, by the threads of a warp, in an order that is always the same.
template <class Get>
FASTDIFF_DEVICE Record merge(int lane, int count, const Get& get) {
  float elements = 0, sum = 0, m2 = 0;
#pragma unroll 2
  for (int i = lane; i < count; i += kWarp) {
    const Record r = get(i);
    elements += r.count, sum += r.count * r.mean;
  }
  elements = warp_sum(elements);
  const float mean = fast_divide(warp_sum(sum), elements);
#pragma unroll 2
  for (int i = lane; i < count; i += kWarp) {
    const Record r = get(i);
    m2 += r.m2 + r.count * ((r.mean - mean) * (r.mean - mean));
  }
  return {elements, mean, warp_sum(m2), 0};
}

// A sum as rounded and what rounding lost.
struct FloatPair {
  float high, low;
};

// Knuth 1969, 4.2.2, theorem B.
FASTDIFF_DEVICE FloatPair two_sum(float a, float b) {
  const float total = a + b, taken = total - a;
  return {total, (a - (total - taken)) + (b - taken)};
}

FASTDIFF_DEVICE Statistics statistics(const Record& all, float eps) {
  return {all.mean, rsqrt(fast_divide(all.m2, all.count) + eps)};
}

}  // namespace fastdiff::cuda
