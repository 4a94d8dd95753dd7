// Any number of keys: four warps take 16 kTiles queries each through the keys, tile by tile, while the next tile is on
// its way (Dao et al. 2022, "FlashAttention", alg. 1, with the queries in the outer loop).
#pragma once

#include "attention_products.h"

namespace fastdiff::cuda {

template <bool kBf16, int D, int kTiles, bool kMasked>
struct Flash {
  using P = Products<kBf16, D>;
  using Rows = typename P::Rows;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kQueries = 16 * kTiles * kWarps;
  // As many as the registers allow beside the results.
  static constexpr int kKeys = D > 160 ? 32 : kTiles == 1 || D <= 64 ? 64 : D <= 72 ? 48 : 32;
  static constexpr int kTile = kKeys * Rows::kPitch, kStage = 2 * kTile, kPanel = kQueries * Rows::kPitch;
  static constexpr int kShared = kStage + (kStage > kPanel ? kStage : kPanel);  // queries begin in the second stage
  static_assert(kShared <= kMinShared);

  static FASTDIFF_DEVICE void run(const Problem& p, char* shared, int block, int thread) {
    const Head<uint16_t> head(p, block / p.blocks);
    const int64_t first = static_cast<int64_t>(block % p.blocks) * kQueries, left = p.queries - first;
    const int lane = thread % 32, mine = thread / 32 * 16 * kTiles;

    load<kQueries>(p, shared + kStage, head.q + first * p.q.row_stride, p.q.row_stride, left, thread);
    cp_async_commit();
    load_stage(p, shared, head, 0, thread);
    cp_async_wait<1>();
    sync_block();
    typename P::Queries q[kTiles];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      q[m].load(shared + kStage + (mine + m * 16) * Rows::kPitch, lane, p.sign);
    }

    float out[kTiles][P::kNTiles][4] = {};
    SoftmaxRow row[kTiles][2];
    int64_t key = 0;
    for (int stage = 0; key < p.keys; key += kKeys, stage ^= 1) {
      cp_async_wait<0>();
      sync_block();  // the stage is there, and nobody reads the other one any more
      if (key + kKeys < p.keys) load_stage(p, shared + (stage ^ 1) * kStage, head, key + kKeys, thread);
      advance(p, q, row, out, shared + stage * kStage, p.keys - key, lane);
    }

    sync_block();
    char* results = shared + mine * Rows::kPitch;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      P::put(results + m * 16 * Rows::kPitch, out[m], row[m][0].inverse_sum(), row[m][1].inverse_sum(), lane);
    }
    sync_warp();
    store_rows<uint16_t, D, kMasked, 16 * kTiles, 32>(p, head.out + (first + mine) * p.out.row_stride,
                                                      p.out.row_stride, results, left - mine, lane);
  }

 private:
  template <int kRows>
  static FASTDIFF_DEVICE void load(const Problem& p, char* to, const uint16_t* from, int64_t stride, int64_t rows,
                                   int thread) {
    load_rows<uint16_t, D, kMasked, kRows, kThreads>(p, to, from, stride, rows, thread);
  }

  static FASTDIFF_DEVICE void load_stage(const Problem& p, char* stage, const Head<uint16_t>& head, int64_t key,
                                         int thread) {
    load<kKeys>(p, stage, head.k + key * p.k.row_stride, p.k.row_stride, p.keys - key, thread);
    load<kKeys>(p, stage + kTile, head.v + key * p.v.row_stride, p.v.row_stride, p.keys - key, thread);
    cp_async_commit();
  }

  static FASTDIFF_DEVICE void advance(const Problem& p, const typename P::Queries (&q)[kTiles],
                                      SoftmaxRow (&row)[kTiles][2], float (&out)[kTiles][P::kNTiles][4],
                                      const char* stage, int64_t keys, int lane) {
    float s[kTiles][kKeys / 8][4] = {};
    P::logits(s, q, stage, lane);
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      if (keys < kKeys) mask(s[m], keys, lane);
      const float first = row[m][0].exponentiate(s[m], 0, p.scale), second = row[m][1].exponentiate(s[m], 1, p.scale);
      rescale(out[m], first, second);
    }
    P::values(out, s, stage + kTile, lane);
  }
};

}  // namespace fastdiff::cuda
