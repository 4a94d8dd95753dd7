// Many keys on Hopper: one warpgroup copies tiles of keys and values, two take 64 queries each through them (Shah et
// al. 2024, "FlashAttention-3", alg. 1). Products are as wide as the head: in a tile the cores of eight rows lie one
// after another and those of each eight columns apart, a layout for which any multiple of eight is as good as another.
#pragma once

#include "attention_rows.h"
#include "attention_softmax.h"
#include "warpgroup.h"

namespace fastdiff::cuda {

template <bool kBf16, int D>
struct Hopper {
  static constexpr int kGroup = 128, kConsumers = 2, kThreads = (1 + kConsumers) * kGroup;
  static constexpr int kQueries = 64 * kConsumers, kKeys = 128, kRows = 128;
  static constexpr int kChunks = D / 8, kSteps = (kChunks + 1) / 2;
  static constexpr int kCore = 128, kColumn = kRows * 16 + 64;  // neighbouring chunks of four rows: different banks
  static constexpr int kTile = kChunks * kColumn, kStages = D <= 80 ? 4 : 2, kAhead = kStages - 2;
  static constexpr int kZeros = kTile + kStages * 2 * kTile, kBarriers = kZeros + kRows * 16;
  static constexpr int kShared = kBarriers + 2 * kStages * 8;
  static_assert(kQueries == kRows && kKeys == kRows);

  static FASTDIFF_DEVICE void run(const Problem& p, char* shared, int block, int thread) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    const Head<uint16_t> head(p, block / p.blocks);
    const int64_t first = static_cast<int64_t>(block % p.blocks) * kQueries;
    prepare(shared, thread);
    if (thread < kGroup) {
      decrease_registers<40>();
      produce(p, shared, head, first, thread);
    } else {
      increase_registers<232>();
      consume(p, shared, head, first, thread - kGroup);
    }
#endif
  }

 private:
  // Where a tile is to be read from shared memory, and where there is room for one.
  static FASTDIFF_DEVICE uint64_t* full(char* shared, int stage) {
    return reinterpret_cast<uint64_t*>(shared + kBarriers) + stage;
  }
  static FASTDIFF_DEVICE uint64_t* empty(char* shared, int stage) { return full(shared, kStages + stage); }
  static FASTDIFF_DEVICE char* keys_of(char* shared, int stage) { return shared + (1 + 2 * stage) * kTile; }
  static FASTDIFF_DEVICE char* values_of(char* shared, int stage) { return keys_of(shared, stage) + kTile; }

  static FASTDIFF_DEVICE void prepare(char* shared, int thread) {
    if (thread < kRows) *reinterpret_cast<uint4*>(shared + kZeros + thread * 16) = uint4{0, 0, 0, 0};
    fence_async_proxy();
    if (thread < kStages) {
      mbarrier_init(full(shared, thread), kGroup);
      mbarrier_init(empty(shared, thread), kConsumers * kGroup);
    }
    sync_block();
  }

  static FASTDIFF_DEVICE void produce(const Problem& p, char* shared, const Head<uint16_t>& head, int64_t first,
                                      int thread) {
    load(shared, head.q + first * p.q.row_stride, p.q.row_stride, p.queries - first, thread);
    int tile = 0;
    for (int64_t key = 0; key < p.keys; key += kKeys, ++tile) {
      const int stage = tile % kStages;
      if (tile >= kStages) mbarrier_wait(empty(shared, stage), (tile / kStages - 1) % 2);
      load(keys_of(shared, stage), head.k + key * p.k.row_stride, p.k.row_stride, p.keys - key, thread);
      load(values_of(shared, stage), head.v + key * p.v.row_stride, p.v.row_stride, p.keys - key, thread);
      cp_async_commit();
      if (tile < kAhead) continue;
      cp_async_wait<kAhead>();
      fence_async_proxy();
      mbarrier_arrive(full(shared, (tile - kAhead) % kStages));
    }
    cp_async_wait<0>();
    fence_async_proxy();
    for (int last = tile < kAhead ? 0 : tile - kAhead; last < tile; ++last) {
      mbarrier_arrive(full(shared, last % kStages));
    }
  }

  // Eight threads copy two chunks of four rows: whole sectors of memory, and all banks.
  static FASTDIFF_DEVICE void load(char* to, const uint16_t* from, int64_t stride, int64_t rows, int thread) {
    const int count = rows < kRows ? static_cast<int>(rows) : kRows, pair = thread / 4 % 2;
#pragma unroll 1
    for (int row = thread / 8 * 4 + thread % 4; row < kRows; row += kGroup / 2) {
      const bool there = row < count;
      const uint16_t* source = from + (there ? row * stride : 0) + pair * 8;
      char* at = to + row * 16 + pair * kColumn;
#pragma unroll 1
      for (int chunk = pair; chunk < kChunks; chunk += 2, source += 16, at += 2 * kColumn) {
        cp_async_16(at, source, there);
      }
    }
  }

  static FASTDIFF_DEVICE void consume(const Problem& p, char* shared, const Head<uint16_t>& head, int64_t first,
                                      int thread) {
    const int group = thread / kGroup, lane = thread % 32, mine = thread / 32 * 16;
    char* queries = shared + group * 64 * 16;
    float out[kChunks][4] = {};
    SoftmaxRow row[2];
    int64_t left = p.keys;
    for (int tile = 0; left > 0; ++tile, left -= kKeys) {
      const int stage = tile % kStages;
      mbarrier_wait(full(shared, stage), tile / kStages % 2);
      if (tile == 0 && p.sign) negate(queries, p.sign, group, thread % kGroup);
      advance(p, shared, queries, stage, row, out, left, lane);
      mbarrier_arrive(empty(shared, stage));
    }
    const float inverse_sum[] = {row[0].inverse_sum(), row[1].inverse_sum()};
    sync_warpgroup(1 + group);  // nobody reads the queries any more
    put(shared + mine * 16, out, inverse_sum, lane);
    sync_warp();
    store(p, shared + mine * 16, head.out + (first + mine) * p.out.row_stride, p.queries - first - mine, lane);
  }

  static FASTDIFF_DEVICE void negate(char* queries, uint32_t sign, int group, int thread) {
#pragma unroll 1
    for (int chunk = thread / 64; chunk < kChunks; chunk += 2) {
      auto* at = reinterpret_cast<uint4*>(queries + chunk * kColumn + thread % 64 * 16);
      const uint4 v = *at;
      *at = uint4{v.x ^ sign, v.y ^ sign, v.z ^ sign, v.w ^ sign};
    }
    fence_async_proxy();
    sync_warpgroup(1 + group);
  }

  static FASTDIFF_DEVICE void advance(const Problem& p, char* shared, const char* queries, int stage,
                                      SoftmaxRow (&row)[2], float (&out)[kChunks][4], int64_t left, int lane) {
    float s[kKeys / 8][4] = {};
    wgmma_begin(s);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      wgmma_shared<kBf16>(s, step(shared, queries, k), step(shared, keys_of(shared, stage), k));
    }
    wgmma_finish(s);
    if (left < kKeys) mask(s, left, lane);
    const float first = row[0].exponentiate(s, 0, p.scale), second = row[1].exponentiate(s, 1, p.scale);
    uint32_t weights[kKeys / 16][4];
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) a_fragment<kBf16>(weights[k], s[2 * k], s[2 * k + 1]);
    rescale(out, first, second);
    wgmma_begin(out, weights);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t at = shared_address(values_of(shared, stage)) + k * 2 * kCore;
      wgmma_registers<kBf16>(out, weights[k], matrix_descriptor(at, kCore, kColumn));
    }
    wgmma_finish(out);
  }

  // Columns 16 k to 16 k + 15 of rows in shared memory; where only eight are left, zeros take the others' place.
  static FASTDIFF_DEVICE uint64_t step(const char* shared, const char* rows, int k) {
    const uint32_t at = shared_address(rows) + 2 * k * kColumn;
    const uint32_t next = 2 * k + 1 < kChunks ? kColumn : shared_address(shared) + kZeros - at;
    return matrix_descriptor(at, next, kCore);
  }

  // A warp's results as rows in shared memory, in place of its queries.
  static FASTDIFF_DEVICE void put(char* rows, const float (&out)[kChunks][4], const float (&inverse_sum)[2], int lane) {
#pragma unroll
    for (int n = 0; n < kChunks; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        char* at = rows + n * kColumn + (lane / 4 + 8 * half) * 16 + lane % 4 * 4;
        *reinterpret_cast<uint32_t*>(at) =
            pack_halves(out[n][2 * half] * inverse_sum[half], out[n][2 * half + 1] * inverse_sum[half], kBf16);
      }
    }
  }

  static FASTDIFF_DEVICE void store(const Problem& p, const char* rows, uint16_t* to, int64_t count, int lane) {
    const int row = lane / 8 * 4 + lane % 4;
    if (row >= count) return;
#pragma unroll
    for (int chunk = lane / 4 % 2; chunk < kChunks; chunk += 2) {
      const auto v = *reinterpret_cast<const uint4*>(rows + chunk * kColumn + row * 16);
      *reinterpret_cast<uint4*>(to + row * p.out.row_stride + chunk * 8) = v;
    }
  }
};

}  // namespace fastdiff::cuda
