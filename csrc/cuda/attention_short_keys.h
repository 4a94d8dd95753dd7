// At most kKeys keys, as those of a text: all of them stay in shared memory, a softmax is done in one go, and tiles of
// queries stream by.
#pragma once

#include "attention_products.h"

namespace fastdiff::cuda {

template <bool kBf16, int D, int kKeys>
struct ShortKeys {
  using P = Products<kBf16, D>;
  using Rows = typename P::Rows;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kQueries = 16 * kWarps;
  static constexpr int kTile = kKeys * Rows::kPitch, kPanel = kQueries * Rows::kPitch, kShared = 2 * (kTile + kPanel);
  static_assert(kKeys > 80 || kShared <= kMinShared);

  static FASTDIFF_DEVICE void run(const Problem& p, char* shared, int block, int thread) {
    const Head<uint16_t> head(p, block / p.blocks);
    const int64_t step = static_cast<int64_t>(p.blocks) * kQueries;
    char *panel = shared + 2 * kTile, *next = panel + kPanel;

    load<kKeys>(p, shared, head.k, p.k.row_stride, p.keys, thread);
    load<kKeys>(p, shared + kTile, head.v, p.v.row_stride, p.keys, thread);
    int64_t query = static_cast<int64_t>(block % p.blocks) * kQueries;
    load_queries(p, panel, head, query, thread);
    for (; query < p.queries; query += step) {
      cp_async_wait<0>();
      sync_block();  // the panel is there, and nobody reads the other one any more
      if (query + step < p.queries) load_queries(p, next, head, query + step, thread);
      attend(p, shared, panel + thread / 32 * 16 * Rows::kPitch, head, query + thread / 32 * 16, thread % 32);
      char* done = panel;
      panel = next, next = done;
    }
  }

 private:
  template <int kRows>
  static FASTDIFF_DEVICE void load(const Problem& p, char* to, const uint16_t* from, int64_t stride, int64_t rows,
                                   int thread) {
    load_rows<uint16_t, D, false, kRows, kThreads>(p, to, from, stride, rows, thread);
  }

  static FASTDIFF_DEVICE void load_queries(const Problem& p, char* to, const Head<uint16_t>& head, int64_t query,
                                           int thread) {
    load<kQueries>(p, to, head.q + query * p.q.row_stride, p.q.row_stride, p.queries - query, thread);
    cp_async_commit();
  }

  // The 16 queries of a warp, whose place in shared memory the results take.
  static FASTDIFF_DEVICE void attend(const Problem& p, const char* keys, char* rows, const Head<uint16_t>& head,
                                     int64_t query, int lane) {
    typename P::Queries q[1];
    q[0].load(rows, lane, p.sign);
    float s[1][kKeys / 8][4] = {}, out[1][P::kNTiles][4] = {};
    P::logits(s, q, keys, lane);
    if (p.keys < kKeys) mask(s[0], p.keys, lane);
    SoftmaxRow first, second;
    first.exponentiate(s[0], 0, p.scale), second.exponentiate(s[0], 1, p.scale);
    P::values(out, s, keys + kTile, lane);
    sync_warp();
    P::put(rows, out[0], first.inverse_sum(), second.inverse_sum(), lane);
    sync_warp();
    store_rows<uint16_t, D, false, 16, 32>(p, head.out + query * p.out.row_stride, p.out.row_stride, rows,
                                           p.queries - query, lane);
  }
};

}  // namespace fastdiff::cuda
