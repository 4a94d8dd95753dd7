// What one thread of token_stats' two kernels does: a part of a row, and a row from its parts. The sample's part is read
// again to draw in it. This also compiles as plain C++, which is how it is tested without a GPU.
#pragma once

#include <cmath>

#include "token_row.h"

namespace fastdiff::cuda {

struct PartShared {
  Top top[kTokenThreads / kWarpLanes];
  double sum[kTokenThreads / kWarpLanes];
};

FASTDIFF_DEVICE int64_t token_of(int64_t part, int turn, int thread) {
  return part * kPart + turn * kTurn + thread * kTokenWidth;
}

FASTDIFF_DEVICE void token_part_thread(const TokenCall& c, int64_t block, int thread, void* memory) {
  PartShared& shared = *static_cast<PartShared*>(memory);
  const int64_t which = static_cast<uint32_t>(block) / static_cast<uint32_t>(c.parts), part = block - which * c.parts;
  const TokenRow row(c, which);
  float z[kTokenTurns][kTokenWidth];
#pragma unroll
  for (int turn = 0; turn < kTokenTurns; ++turn) row.load_final(token_of(part, turn, thread), z[turn]);
  Top top = {-kInfinity, -kInfinity, static_cast<int>(token_of(part, 0, thread))};
#pragma unroll
  for (int turn = 0; turn < kTokenTurns; ++turn) {
#pragma unroll
    for (int l = 0; l < kTokenWidth; ++l) {
      top.add({z[turn][l], -kInfinity, static_cast<int>(token_of(part, turn, thread) + l)});
    }
  }
  top = over_block(top, thread, kTokenThreads, shared.top, [](Top& to, const Top& other) { to.add(other); });
  const double inverse = inverse_of(c, row.sample);
  const bool tempered = inverse > 0 && inverse != 1;
  const float scale = scale_of(inverse), from = finite_or_zero(top.first);
  float sum = 0, moment = 0, drawn = 0, drawn_moment = 0;
#pragma unroll
  for (int turn = 0; turn < kTokenTurns; ++turn) {
#pragma unroll
    for (int l = 0; l < kTokenWidth; ++l) {
      const float d = below(z[turn][l], from), w = weight(d, kLog2e);
      float v = tempered ? weight(d, scale) : w;
      if (c.cut && !is_kept(c.cut[which], z[turn][l], token_of(part, turn, thread) + l)) v = 0;
      sum += w, moment += w * d, drawn += v, drawn_moment += v * d;
    }
  }
  const auto total = [&](float own) {
    return static_cast<float>(sum_over_block(static_cast<double>(own), thread, kTokenThreads, shared.sum));
  };
  const float all[] = {total(sum), total(moment), total(drawn), total(drawn_moment)};
  if (thread == 0) c.part[block] = {top.first, top.second, all[0], all[1], all[2], all[3], top.token, 0};
}

struct RowShared {
  Top top[kTokenThreads / kWarpLanes];
  double sum[kTokenThreads / kWarpLanes], mass[kTokenThreads];
  double target;  // what is left of the random number's share of the sum
  int64_t part, token;
  int owner;  // the thread in whose logits the target falls
};

// A law's normaliser and first moment.
struct TokenLaw {
  double sum, moment;
};

// By all threads. Leaves the parts' shares in the drawn law.
template <bool kDrawn>
FASTDIFF_DEVICE TokenLaw law_of_row(TokenPart* parts, int64_t count, float largest, double inverse, int thread,
                                    RowShared& shared) {
  TokenLaw law = {0, 0};
  for (int64_t p = thread; p < count; p += kTokenThreads) {
    const TokenPart part = parts[p];
    const double d = static_cast<double>(below(part.largest, largest)), factor = exp(inverse * d);
    const double sum = static_cast<double>(kDrawn ? part.drawn : part.sum);
    const double moment = static_cast<double>(kDrawn ? part.drawn_moment : part.moment);
    law.sum += factor * sum, law.moment += factor * (moment + d * sum);
    if (kDrawn) parts[p].share = factor * sum;
  }
  law.sum = sum_over_block(law.sum, thread, kTokenThreads, shared.sum);
  law.moment = sum_over_block(law.moment, thread, kTokenThreads, shared.sum);
  return law;
}

// The first of `count` masses with which their sum exceeds the target, from which the sum before it is taken; the last
// positive one where rounding leaves none. mass(i).
template <class Mass>
FASTDIFF_DEVICE int64_t reach(int64_t count, double& target, const Mass& mass) {
  int64_t last = 0;
  double last_target = target;
  for (int64_t i = 0; i < count; ++i) {
    const double w = mass(i);
    if (w > target) return i;
    if (w > 0) last = i, last_target = target;
    target -= w;
  }
  target = last_target;
  return last;
}

// By all threads. The part's own sum takes the place of its share, so that each token has its mass.
FASTDIFF_DEVICE int64_t draw_token(const TokenCall& c, const TokenRow& row, const TokenPart* parts, double inverse,
                                   double target, int thread, RowShared& shared) {
  constexpr int kEach = kPart / kTokenThreads;
  if (thread == 0) {
    shared.part = reach(c.parts, target, [&](int64_t p) { return parts[p].share; });
    shared.target = target * reciprocal(parts[shared.part].share);
  }
  sync_block();
  const TokenPart part = parts[shared.part];
  const int64_t begin = shared.part * kPart + thread * kEach;
  const float from = finite_or_zero(part.largest), scale = scale_of(inverse);
  float w[kEach];
  double own = 0;
#pragma unroll
  for (int first = 0; first < kEach; first += kTokenWidth) {
    float z[kTokenWidth];
    row.load_final(begin + first, z);
#pragma unroll
    for (int l = 0; l < kTokenWidth; ++l) {
      const bool kept = !c.cut || is_kept(c.cut[row.row], z[l], begin + first + l);
      w[first + l] = kept ? weight(below(z[l], from), scale) : 0;
      own += static_cast<double>(w[first + l]);
    }
  }
  shared.mass[thread] = own;
  const double all = sum_over_block(own, thread, kTokenThreads, shared.sum);
  if (thread == 0) {
    double left = shared.target * all;
    shared.owner = static_cast<int>(reach(kTokenThreads, left, [&](int64_t t) { return shared.mass[t]; }));
    shared.target = left;
  }
  sync_block();
  if (thread == shared.owner) {
    double left = shared.target;
    int last = 0, found = -1;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {  // unrolled, so that the weights stay in registers
      const double v = static_cast<double>(w[i]);
      if (v > 0 && found < 0) last = i;
      if (found < 0 && v > left) found = i;
      left -= v;
    }
    shared.token = begin + (found < 0 ? last : found);
  }
  sync_block();
  return shared.token;
}

FASTDIFF_DEVICE void write_row(const TokenCall& c, int64_t row, const double (&numbers)[kTokenNumbers], int64_t argmax,
                               int64_t sample) {
#pragma unroll
  for (int k = 0; k < kTokenNumbers; ++k) c.t.numbers[k * c.rows + row] = static_cast<float>(numbers[k]);
  c.t.tokens[kArgmax * c.rows + row] = argmax, c.t.tokens[kSample * c.rows + row] = sample;
}

FASTDIFF_DEVICE void token_row_thread(const TokenCall& c, int64_t which, int thread, void* memory) {
  RowShared& shared = *static_cast<RowShared*>(memory);
  const TokenStats& t = c.t;
  const TokenRow row(c, which);
  TokenPart* const parts = c.part + which * c.parts;
  Top top = {-kInfinity, -kInfinity, 0x7fffffff};
  for (int64_t p = thread; p < c.parts; p += kTokenThreads) {
    top.add({parts[p].largest, parts[p].second, static_cast<int>(parts[p].argmax)});
  }
  top = over_block(top, thread, kTokenThreads, shared.top, [](Top& to, const Top& other) { to.add(other); });
  const double inverse = inverse_of(c, row.sample), largest = static_cast<double>(top.first);
  const TokenLaw plain = law_of_row<false>(parts, c.parts, finite_or_zero(top.first), 1, thread, shared);
  TokenLaw drawn = {1, 0};
  if (!(plain.sum > 0) || top.first == kInfinity) {  // NaN is not
    const double none = static_cast<double>(__builtin_nanf(""));
    if (thread == 0) write_row(c, which, {none, none, none, none, none, none, none}, 0, 0);
    return;
  }
  int64_t sample = top.token;
  if (inverse > 0) {
    drawn = law_of_row<true>(parts, c.parts, top.first, inverse, thread, shared);
    const int64_t position = t.positions ? t.positions[which] : row.position;
    const uint32_t index = t.index ? static_cast<uint32_t>(t.index[row.sample]) : 0;
    const double u = row_uniform(static_cast<uint64_t>(t.seeds[row.sample]), static_cast<uint64_t>(position), index);
    sample = draw_token(c, row, parts, inverse, u * drawn.sum, thread, shared);
  }
  if (thread != 0) return;
  const double x = static_cast<double>(row.logit(sample)) - largest, log_sum = log(plain.sum), log_drawn = log(drawn.sum);
  const double whole = reciprocal(plain.sum);
  double current = 0;
  if (t.current && t.current[which] >= 0 && t.current[which] < t.vocabulary) {
    current = exp(static_cast<double>(row.logit(t.current[which])) - largest) * whole;
  }
  const double margin = -expm1(static_cast<double>(top.second) - largest) * whole;
  write_row(c, which,
            {x - log_sum, whole, margin, log_sum - plain.moment * whole, current,
             inverse > 0 ? inverse * x - log_drawn : 0, log_drawn - inverse * (drawn.moment * reciprocal(drawn.sum))},
            top.token, sample);
}

}  // namespace fastdiff::cuda
