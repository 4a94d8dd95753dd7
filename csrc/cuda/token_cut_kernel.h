// Where top_k and top_p cut a row, by a block: found digit by digit of the logits' keys, the row in the cache meanwhile.
#pragma once

#include <cmath>

#include "token_row.h"

namespace fastdiff::cuda {

constexpr int kDigits = 16, kDigitBits = 4;

struct CutShared {
  Top top[kCutThreads / kWarpLanes];
  double sum[kCutThreads / kWarpLanes];
  int count[kCutThreads], last;
};

// f(z, token) for the tokens of a row that are this thread's.
template <class F>
FASTDIFF_DEVICE void for_each_token(const TokenRow& row, int thread, const F& f) {
  for (int64_t token = thread * kTokenWidth; token < row.call.t.vocabulary; token += kCutThreads * kTokenWidth) {
    float z[kTokenWidth];
    row.load_final(token, z);
#pragma unroll
    for (int l = 0; l < kTokenWidth; ++l) {
      if (token + l < row.call.t.vocabulary) f(z[l], token + l);
    }
  }
}

// The largest key from which on tokens count for `bound`, and what those above it do. measure(z).
template <class Measure>
FASTDIFF_DEVICE uint32_t reach_key(const TokenRow& row, double bound, double& above, int thread, CutShared& shared,
                                   const Measure& measure) {
  uint32_t found = 0;
  above = 0;
#pragma unroll 1
  for (int low = 32 - kDigitBits; low >= 0; low -= kDigitBits) {
    float count[kDigits - 1] = {};
    for_each_token(row, thread, [&](float z, int64_t) {
      const uint32_t key = key_of(z);
      const float value = measure(z);
#pragma unroll
      for (int digit = 1; digit < kDigits; ++digit) {
        if (key >= found + (static_cast<uint32_t>(digit) << low)) count[digit - 1] += value;
      }
    });
    int last = 0;
    double next = above;
#pragma unroll
    for (int digit = 1; digit < kDigits; ++digit) {  // what larger digits count for is no more
      const double all = sum_over_block(static_cast<double>(count[digit - 1]), thread, kCutThreads, shared.sum);
      if (all >= bound) last = digit;
      else if (last == digit - 1) next = all;
    }
    above = next;
    found += static_cast<uint32_t>(last) << low;
  }
  return found;
}

// The token that has `needed` - 1 of this key before it.
FASTDIFF_DEVICE int64_t token_of_key(const TokenRow& row, uint32_t key, int64_t needed, int thread, CutShared& shared) {
  const int64_t vocabulary = row.call.t.vocabulary, each = (vocabulary + kCutThreads - 1) / kCutThreads;
  const int64_t begin = thread * each, end = begin + each < vocabulary ? begin + each : vocabulary;
  int count = 0;
  for (int64_t token = begin; token < end; ++token) count += key_of(row.logit(token)) == key;
  shared.count[thread] = count;
  if (thread == 0) shared.last = static_cast<int>(vocabulary);
  sync_block();
  int64_t before = 0;
  for (int other = 0; other < thread; ++other) before += shared.count[other];
  if (before < needed && needed <= before + count) {
    int64_t left = needed - before, token = begin;
    for (; token < end; ++token) {
      if (key_of(row.logit(token)) == key && --left == 0) break;
    }
    shared.last = static_cast<int>(token);
  }
  sync_block();
  return shared.last;
}

FASTDIFF_DEVICE void token_cut_thread(const TokenCall& c, int64_t which, int thread, void* memory) {
  CutShared& shared = *static_cast<CutShared*>(memory);
  const TokenRow row(c, which);
  const double inverse = inverse_of(c, row.sample);
  RowCut cut = {0, c.t.vocabulary};
  if (inverse > 0) {
    const float scale = scale_of(inverse);
    Top top = {-kInfinity, -kInfinity, 0x7fffffff};
    for_each_token(row, thread, [&](float z, int64_t token) { top.add({z, -kInfinity, static_cast<int>(token)}); });
    top = over_block(top, thread, kCutThreads, shared.top, [](Top& to, const Top& other) { to.add(other); });
    const float largest = finite_or_zero(top.first);
    double above = 0;
    uint32_t least = 0;
    if (c.by_count) {
      least = reach_key(row, static_cast<double>(c.t.top_k), above, thread, shared, [](float) { return 1.0f; });
    }
    if (c.by_mass) {
      const auto mass = [&](float z) { return key_of(z) >= least ? weight(below(z, largest), scale) : 0.0f; };
      float own = 0;
      for_each_token(row, thread, [&](float z, int64_t) { own += mass(z); });
      const double bound = c.t.top_p * sum_over_block(static_cast<double>(own), thread, kCutThreads, shared.sum);
      const uint32_t key = reach_key(row, bound, above, thread, shared, mass);
      const double each = static_cast<double>(weight(below(logit_of(key), largest), scale));
      double needed = each > 0 ? ceil((bound - above) * reciprocal(each)) : 1;
      const double most = static_cast<double>(c.t.vocabulary);
      needed = needed >= 1 ? (needed < most ? needed : most) : 1;  // NaN becomes 1
      cut.last = token_of_key(row, key, static_cast<int64_t>(needed), thread, shared);
      least = key;
    }
    cut.key = least;
  }
  if (thread == 0) c.cut[which] = cut;
}

}  // namespace fastdiff::cuda
