// float32 by fused multiply-adds: a thread has several queries, and eight threads share each, for their logits by key
// and for their results by column.
#pragma once

#include "attention_rows.h"

namespace fastdiff::cuda {

template <int D>
struct Float32 {
  using Rows = Tile<float, D>;
  using Four = Chunk<float>;
  static constexpr int kThreads = 128, kShare = 8, kGroups = kThreads / kShare;
  static constexpr int kQueries = D > 128 ? 32 : 64, kKeys = D > 128 ? 16 : 32;
  static constexpr int kMine = kQueries / kGroups, kMyKeys = kKeys / kShare, kMyColumns = D / (4 * kShare);
  static constexpr int kPanel = kQueries * Rows::kPitch, kTile = kKeys * Rows::kPitch, kWeights = kKeys + 1;
  static constexpr int kShared = kPanel + 2 * kTile + kQueries * kWeights * 4;
  static_assert(kShared <= kMinShared);

  struct Row {
    float max = -INFINITY, sum = 0;
    float out[kMyColumns][4] = {};
  };

  static FASTDIFF_DEVICE void run(const Problem& p, char* shared, int block, int thread) {
    const Head<float> head(p, block / p.blocks);
    const int64_t first = static_cast<int64_t>(block % p.blocks) * kQueries;
    char *keys = shared + kPanel, *values = keys + kTile;
    float* weights = reinterpret_cast<float*>(values + kTile);
    const Place at{thread / kShare, thread % kShare};

    load<kQueries>(p, shared, head.q + first * p.q.row_stride, p.q.row_stride, p.queries - first, thread);
    Row row[kMine];
    for (int64_t key = 0; key < p.keys; key += kKeys) {
      sync_block();  // nobody reads the last tile any more
      load<kKeys>(p, keys, head.k + key * p.k.row_stride, p.k.row_stride, p.keys - key, thread);
      load<kKeys>(p, values, head.v + key * p.v.row_stride, p.v.row_stride, p.keys - key, thread);
      cp_async_commit();
      cp_async_wait<0>();
      sync_block();
      exponentiate(p, row, shared, keys, weights, p.keys - key, at);
      sync_warp();
      add_values(p, row, values, weights, at);
    }
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const float inverse_sum = 1 / across(row[r].sum, [](float a, float b) { return a + b; });
      const int64_t query = first + at.group + r * kGroups;
      if (query < p.queries) store(p, row[r], head.out + query * p.out.row_stride, inverse_sum, at);
    }
  }

 private:
  // Which queries are the thread's, and which keys and columns.
  struct Place {
    int group, share;
  };

  template <int kRows>
  static FASTDIFF_DEVICE void load(const Problem& p, char* to, const float* from, int64_t stride, int64_t rows,
                                   int thread) {
    load_rows<float, D, true, kRows, kThreads>(p, to, from, stride, rows, thread);
  }

  // The weights of a tile of keys, to shared memory; results so far are rescaled.
  static FASTDIFF_DEVICE void exponentiate(const Problem& p, Row (&row)[kMine], const char* queries, const char* keys,
                                    float* weights, int64_t count, Place at) {
    float s[kMine][kMyKeys] = {};
    multiply(p, s, queries + at.group * Rows::kPitch, keys + at.share * Rows::kPitch);
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      float max = row[r].max;
#pragma unroll
      for (int k = 0; k < kMyKeys; ++k) {
        s[r][k] = at.share + k * kShare >= count ? -INFINITY : p.sign ? -s[r][k] : s[r][k];
        max = fmaxf(max, s[r][k]);
      }
      max = across(max, [](float a, float b) { return fmaxf(a, b); });
      const float origin = max == -INFINITY ? 0 : max;
      const float rescale = exp2_fast((row[r].max - origin) * p.scale);
      float sum = 0;
#pragma unroll
      for (int k = 0; k < kMyKeys; ++k) {
        const float weight = exp2_fast((s[r][k] - origin) * p.scale);
        weights[(at.group + r * kGroups) * kWeights + at.share + k * kShare] = weight;
        sum += weight;
      }
      row[r].max = max, row[r].sum = row[r].sum * rescale + sum;
#pragma unroll
      for (int i = 0; i < 4 * kMyColumns; ++i) row[r].out[i / 4][i % 4] *= rescale;
    }
  }

  static FASTDIFF_DEVICE void multiply(const Problem& p, float (&s)[kMine][kMyKeys], const char* queries,
                                       const char* keys) {
    for (int d = 0; d < p.head_size; d += 4) {  // filled up with zeros
      Four q[kMine], k[kMyKeys];
#pragma unroll
      for (int r = 0; r < kMine; ++r) q[r] = four(queries + r * kGroups * Rows::kPitch + d * 4);
#pragma unroll
      for (int i = 0; i < kMyKeys; ++i) k[i] = four(keys + i * kShare * Rows::kPitch + d * 4);
#pragma unroll
      for (int r = 0; r < kMine; ++r) {
#pragma unroll
        for (int i = 0; i < kMyKeys; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) s[r][i] = fmaf(q[r].e[e], k[i].e[e], s[r][i]);
        }
      }
    }
  }

  static FASTDIFF_DEVICE void add_values(const Problem& p, Row (&row)[kMine], const char* values,
                                         const float* weights, Place at) {
#pragma unroll 4
    for (int key = 0; key < kKeys; ++key) {
      float weight[kMine];
#pragma unroll
      for (int r = 0; r < kMine; ++r) weight[r] = weights[(at.group + r * kGroups) * kWeights + key];
#pragma unroll
      for (int j = 0; j < kMyColumns; ++j) {
        if (j * 4 * kShare >= p.head_size) break;
        const Four v = four(values + key * Rows::kPitch + (j * kShare + at.share) * 16);
#pragma unroll
        for (int r = 0; r < kMine; ++r) {
#pragma unroll
          for (int e = 0; e < 4; ++e) row[r].out[j][e] = fmaf(weight[r], v.e[e], row[r].out[j][e]);
        }
      }
    }
  }

  static FASTDIFF_DEVICE void store(const Problem& p, const Row& row, float* to, float inverse_sum, Place at) {
#pragma unroll
    for (int j = 0; j < kMyColumns; ++j) {
      const int column = 4 * (j * kShare + at.share);
      if (column >= p.head_size) break;
      Four v;
#pragma unroll
      for (int e = 0; e < 4; ++e) v.e[e] = row.out[j][e] * inverse_sum;
      if (p.aligned16) {
        *reinterpret_cast<uint4*>(to + column) = bit_cast<uint4>(v);
      } else {
        for (int e = 0; e < 4; ++e)
          if (column + e < p.head_size) to[column + e] = v.e[e];
      }
    }
  }

  static FASTDIFF_DEVICE Four four(const char* at) { return bit_cast<Four>(*reinterpret_cast<const uint4*>(at)); }

  // Over the threads that share a query.
  template <class F>
  static FASTDIFF_DEVICE float across(float v, F f) {
#pragma unroll
    for (int lanes = 1; lanes < kShare; lanes *= 2) v = f(v, shuffle_xor(v, lanes));
    return v;
  }
};

}  // namespace fastdiff::cuda
