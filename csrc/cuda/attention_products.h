// A warp's two matrix products, of 16 queries with a tile of keys and of their weights with a tile of values. D is any
// multiple of 8, and no product is wider.
#pragma once

#include "attention_rows.h"
#include "attention_softmax.h"

namespace fastdiff::cuda {

template <bool kBf16, int D>
struct Products {
  using Rows = Tile<uint16_t, D>;
  static constexpr int kKSteps = D / 16, kNTiles = D / 8;
  static constexpr bool kOdd = D % 16 != 0;

  // 16 rows of q; the sign of the scale goes with them, so that the largest logit is that of the largest weight.
  struct Queries {
    uint32_t deep[kKSteps ? kKSteps : 1][4], last[2];

    FASTDIFF_DEVICE void load(const char* rows, int lane, uint32_t sign) {
      const char* at = rows + lane % 16 * Rows::kPitch;
#pragma unroll
      for (int k = 0; k < kKSteps; ++k) load_deep(deep[k], at + lane / 16 * 16, k, sign);
      if (kOdd) load_last(last, at, sign);
    }

    static FASTDIFF_DEVICE void load_deep(uint32_t (&a)[4], const char* at, int k, uint32_t sign) {
      ldmatrix<4, false>(a, at + k * 32);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] ^= sign;
    }

    static FASTDIFF_DEVICE void load_last(uint32_t (&a)[2], const char* at, uint32_t sign) {
      ldmatrix<2, false>(a, at + kKSteps * 32);
      a[0] ^= sign, a[1] ^= sign;
    }
  };

  template <int kTiles, int kCount>
  static FASTDIFF_DEVICE void logits(float (&s)[kTiles][kCount][4], const Queries (&q)[kTiles], const char* keys,
                                     int lane) {
    const char* pair = keys + (lane / 16 * 8 + lane % 8) * Rows::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < kKSteps; ++k) {
#pragma unroll
      for (int n = 0; n < kCount; n += 2) {
        uint32_t b[4];
        ldmatrix<4, false>(b, pair + n * 8 * Rows::kPitch + k * 32);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma_m16n8k16<kBf16>(s[m][n], q[m].deep[k], b[0], b[1]);
          mma_m16n8k16<kBf16>(s[m][n + 1], q[m].deep[k], b[2], b[3]);
        }
      }
    }
    if (kOdd) last_logits(s, q, keys, lane);
  }

  template <int kTiles, int kCount>
  static FASTDIFF_DEVICE void values(float (&out)[kTiles][kNTiles][4], const float (&weights)[kTiles][kCount][4],
                                     const char* values, int lane) {
    const char* at = values + lane % 16 * Rows::kPitch;
#pragma unroll
    for (int k = 0; k < kCount; k += 2, at += 16 * Rows::kPitch) {
      uint32_t a[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) a_fragment<kBf16>(a[m], weights[m][k], weights[m][k + 1]);
#pragma unroll
      for (int n = 0; n + 1 < kNTiles; n += 2) {
        uint32_t b[4];
        ldmatrix<4, true>(b, at + lane / 16 * 16 + n * 16);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma_m16n8k16<kBf16>(out[m][n], a[m], b[0], b[1]);
          mma_m16n8k16<kBf16>(out[m][n + 1], a[m], b[2], b[3]);
        }
      }
      if (kOdd) {
        uint32_t b[2];
        ldmatrix<2, true>(b, at + (kNTiles - 1) * 16);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) mma_m16n8k16<kBf16>(out[m][kNTiles - 1], a[m], b[0], b[1]);
      }
    }
  }

  // The results of 16 queries, each times its share, as rows in shared memory.
  static FASTDIFF_DEVICE void put(char* rows, const float (&out)[kNTiles][4], float first, float second, int lane) {
    char* at = rows + lane / 4 * Rows::kPitch + lane % 4 * 4;
#pragma unroll
    for (int n = 0; n < kNTiles; ++n) {
      *reinterpret_cast<uint32_t*>(at + n * 16) = pack_halves(out[n][0] * first, out[n][1] * first, kBf16);
      *reinterpret_cast<uint32_t*>(at + 8 * Rows::kPitch + n * 16) =
          pack_halves(out[n][2] * second, out[n][3] * second, kBf16);
    }
  }

 private:
  // Four tiles of keys at a time with the last eight of D.
  template <int kTiles, int kCount>
  static FASTDIFF_DEVICE void last_logits(float (&s)[kTiles][kCount][4], const Queries (&q)[kTiles], const char* keys,
                                          int lane) {
#pragma unroll
    for (int n = 0; n < kCount; n += 4) {
      const int tile = n + lane / 8 < kCount ? n + lane / 8 : kCount - 1;
      uint32_t b[4];
      ldmatrix<4, false>(b, keys + (tile * 8 + lane % 8) * Rows::kPitch + kKSteps * 32);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (n + i < kCount) mma_m16n8k8<kBf16>(s[m][n + i], q[m].last, b[i]);
        }
      }
    }
  }
};

}  // namespace fastdiff::cuda
