// A row of final logits for the threads of a block, and what they find of it together. This also compiles as plain C++,
// which is how it is tested without a GPU.
#pragma once

#include "../philox.h"
#include "block.h"
#include "packet.h"
#include "token_stats_args.h"

namespace fastdiff::cuda {

constexpr float kLog2e = 1.44269504089f;
constexpr double kLargest = 0x1.fffffep127;  // float
constexpr float kLeastExponent = -3e38f;     // in place of -inf, which 0 must not be multiplied by
constexpr float kInfinity = __builtin_inff();
constexpr int kWarpLanes = 32;

struct TokenRow {
  const TokenCall& call;
  int64_t row, sample, position;
  Operand logits, uncond;
  float guidance, shift;
  int64_t shifted;  // the token, -1 for none

  FASTDIFF_DEVICE TokenRow(const TokenCall& c, int64_t which) : call(c), row(which) {
    const TokenStats& t = c.t;
    // Blocks of a grid number less than 2^31, and divisions of 64 bits are calls.
    sample = static_cast<uint32_t>(row) / static_cast<uint32_t>(t.length), position = row - sample * t.length;
    logits.data = const_cast<void*>(t.logits.data), uncond.data = const_cast<void*>(t.uncond.data);
    logits.dtype = uncond.dtype = t.dtype;
    guidance = t.guidance ? static_cast<float>(t.guidance[sample]) : 0;
    shift = t.shift ? static_cast<float>(t.shift[sample]) : 0;
    shifted = t.shift ? t.current[row] : -1;
  }

  FASTDIFF_DEVICE int64_t start(const Logits& of) const { return sample * of.stride[0] + position * of.stride[1]; }

  // z of W neighbouring tokens, -inf behind the vocabulary.
  template <int W>
  FASTDIFF_DEVICE void load_final(int64_t token, float (&z)[W]) const {
    const TokenStats& t = call.t;
    load_plain(logits, start(t.logits), token, z);
    if (t.uncond.data) {
      float u[W];
      load_plain(uncond, start(t.uncond), token, u);
#pragma unroll
      for (int l = 0; l < W; ++l) {
        z[l] = z[l] == -kInfinity || u[l] == -kInfinity ? -kInfinity : u[l] + guidance * (z[l] - u[l]);
      }
    }
#pragma unroll
    for (int l = 0; l < W; ++l) {
      if (token + l == shifted) z[l] += shift;
      bool excluded = false;
#pragma unroll
      for (int k = 0; k < kMaxExcluded; ++k) excluded = excluded || (k < t.excluded && t.exclude[k] == token + l);
      if (excluded) z[l] = -kInfinity;
    }
  }

  FASTDIFF_DEVICE float logit(int64_t token) const {
    float z[1];
    load_final(token, z);
    return z[0];
  }

 private:
  template <int W>
  FASTDIFF_DEVICE void load_plain(const Operand& from, int64_t begin, int64_t token, float (&z)[W]) const {
    if constexpr (W > 1) {
      if (call.aligned && token + W <= call.t.vocabulary) {
        Packet<float, W> packet;
        load(packet, from, begin + token);
        return unpack(packet, from.dtype, z);
      }
    }
#pragma unroll
    for (int l = 0; l < W; ++l) {
      z[l] = -kInfinity;
      if (token + l >= call.t.vocabulary) continue;
      Packet<float, 1> packet;
      float one[1];
      load(packet, from, begin + token + l);
      unpack(packet, from.dtype, one);
      z[l] = one[0];
    }
  }
};

FASTDIFF_DEVICE float finite_or_zero(float largest) { return largest - largest == 0 ? largest : 0; }
// z - largest, of which NaN stays and -inf becomes a number that may be multiplied by 0.
FASTDIFF_DEVICE float below(float z, float largest) {
  const float d = z - largest;
  return d < kLeastExponent ? kLeastExponent : d;
}
FASTDIFF_DEVICE float weight(float d, float scale) { return exp2_fast(d * scale); }

// log2(e) / temperature.
FASTDIFF_DEVICE float scale_of(double inverse) {
  const double scale = inverse * static_cast<double>(kLog2e);
  return static_cast<float>(scale > kLargest ? kLargest : scale);
}

// 1 / v of a normal number, by Newton's method: the division of doubles is a call, which costs stack.
FASTDIFF_DEVICE double reciprocal(double v) {
#if defined(__CUDACC__)
  double r;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(v));
  r = fma(r, fma(-v, r, 1.0), r);
  r = fma(r, fma(-v, r, 1.0), r);
  return fma(r, fma(-v, r, 1.0), r);
#else
  return 1 / v;
#endif
}

FASTDIFF_DEVICE double inverse_of(const TokenCall& c, int64_t sample) {
  const double t = c.t.temperature ? c.t.temperature[sample] : 0;
  return t > 0 ? reciprocal(bounded_temperature(t)) : 0;
}

// In the order of the logits; -0 is 0.
FASTDIFF_DEVICE uint32_t key_of(float z) {
  const uint32_t bits = bit_cast<uint32_t>(z + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

FASTDIFF_DEVICE float logit_of(uint32_t key) {
  return bit_cast<float>(key >> 31 ? key & 0x7fffffffu : ~key);
}

FASTDIFF_DEVICE bool is_kept(const RowCut& cut, float z, int64_t token) {
  const uint32_t key = key_of(z), least = static_cast<uint32_t>(cut.key);
  return key > least || (key == least && token <= cut.last);
}

// The largest logit, where it first is, and the largest of the others.
struct Top {
  float first, second;
  int token;

  FASTDIFF_DEVICE void add(const Top& other) {
    const bool wins = other.first > first || (other.first == first && other.token < token);
    second = wins ? (first > other.second ? first : other.second) : (second > other.first ? second : other.first);
    if (wins) first = other.first, token = other.token;
  }
};

FASTDIFF_DEVICE double exchanged(double v, int lanes) {
  uint2 words = bit_cast<uint2>(v);
  words.x = bit_cast<uint32_t>(shuffle_xor(bit_cast<float>(words.x), lanes));
  words.y = bit_cast<uint32_t>(shuffle_xor(bit_cast<float>(words.y), lanes));
  return bit_cast<double>(words);
}

FASTDIFF_DEVICE Top exchanged(const Top& v, int lanes) {
  return {shuffle_xor(v.first, lanes), shuffle_xor(v.second, lanes),
          bit_cast<int>(shuffle_xor(bit_cast<float>(v.token), lanes))};
}

// Of all threads, for all threads; add(to, v) in an order that is always the same. memory: one V a warp.
template <class V, class Add>
FASTDIFF_DEVICE V over_block(V v, int thread, int threads, V* memory, const Add& add) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) add(v, exchanged(v, lanes));
  sync_block();  // whoever read what was there has done so
  if (thread % kWarpLanes == 0) memory[thread / kWarpLanes] = v;
  sync_block();
  v = memory[0];
  for (int warp = 1; warp < threads / kWarpLanes; ++warp) add(v, memory[warp]);
  return v;
}

FASTDIFF_DEVICE double sum_over_block(double v, int thread, int threads, double* memory) {
  return over_block(v, thread, threads, memory, [](double& to, double other) { to += other; });
}

}  // namespace fastdiff::cuda
