// Rows of one head on their way between global and shared memory.
#pragma once

#include "attention_args.h"
#include "block.h"
#include "packet.h"

namespace fastdiff::cuda {

// Rows in shared memory, in chunks of 16 bytes. They lie an odd number of chunks apart: the same chunk of eight rows is
// in eight different sets of banks.
template <class T, int D>
struct Tile {
  static constexpr int kInChunk = 16 / sizeof(T), kChunks = D / kInChunk, kPitch = (kChunks | 1) * 16;
  static_assert(D % kInChunk == 0);
};

template <class T>
struct alignas(16) Chunk {
  T e[16 / sizeof(T)];
};

// Which chunk of a row a thread moves, and of which rows: the first and every kStep-th. The few threads that would
// begin a row without ending it have none.
template <class Rows, int kRows, int kThreads>
struct Share {
  static constexpr int kStep = kThreads / Rows::kChunks, kStride = kStep * Rows::kPitch;
  int row, chunk;

  FASTDIFF_DEVICE explicit Share(int thread) : row(thread / Rows::kChunks), chunk(thread % Rows::kChunks) {
    if (row >= kStep) row = kRows;
  }
};

// `rows` rows of kRows, zeros for the others. kMasked: head_size elements of D, zeros for the others.
template <class T, int D, bool kMasked, int kRows, int kThreads>
FASTDIFF_DEVICE void load_rows(const Problem& p, char* to, const T* from, int64_t stride, int64_t rows, int thread) {
  using Rows = Tile<T, D>;
  using Mine = Share<Rows, kRows, kThreads>;
  const Mine mine(thread);
  const int count = rows < kRows ? static_cast<int>(rows) : kRows;
  const int left = kMasked ? p.head_size - mine.chunk * Rows::kInChunk : D;
  const T* source = from + mine.row * stride + mine.chunk * Rows::kInChunk;
  to += mine.row * Rows::kPitch + mine.chunk * 16;
#pragma unroll 1  // addresses made ahead for all rounds would take the registers of the products
  for (int row = mine.row; row < kRows; row += Mine::kStep, source += Mine::kStep * stride, to += Mine::kStride) {
    const bool there = row < count && left > 0;
    if (!kMasked || p.aligned16) {
      cp_async_16(to, there ? source : from, there);
    } else {
      Chunk<T> v{};
      for (int e = 0; e < Rows::kInChunk; ++e)
        if (there && e < left) v.e[e] = source[e];
      *reinterpret_cast<uint4*>(to) = bit_cast<uint4>(v);
    }
  }
}

template <class T, int D, bool kMasked, int kRows, int kThreads>
FASTDIFF_DEVICE void store_rows(const Problem& p, T* to, int64_t stride, const char* from, int64_t rows, int thread) {
  using Rows = Tile<T, D>;
  using Mine = Share<Rows, kRows, kThreads>;
  const Mine mine(thread);
  const int count = rows < kRows ? static_cast<int>(rows) : kRows;
  const int left = kMasked ? p.head_size - mine.chunk * Rows::kInChunk : D;
  if (left <= 0) return;
  from += mine.row * Rows::kPitch + mine.chunk * 16;
  to += mine.row * stride + mine.chunk * Rows::kInChunk;
  for (int row = mine.row; row < count; row += Mine::kStep, to += Mine::kStep * stride, from += Mine::kStride) {
    const uint4 v = *reinterpret_cast<const uint4*>(from);
    if (!kMasked || p.aligned16) {
      *reinterpret_cast<uint4*>(to) = v;
    } else {
      const auto elements = bit_cast<Chunk<T>>(v);
      for (int e = 0; e < Rows::kInChunk; ++e)
        if (e < left) to[e] = elements.e[e];
    }
  }
}

}  // namespace fastdiff::cuda
