// The argument of attention's kernels, and which part of the work a block has.
#pragma once

#include "../attention.h"
#include "inline.h"

namespace fastdiff::cuda {

constexpr int kMinShared = 99 * 1024;  // bytes that a block may have on every device from compute capability 8.0 on

struct Problem {
  Heads q, k, v, out;
  int heads;
  int64_t queries, keys;
  int head_size;
  float scale;     // of a logit, without its sign, in powers of two
  uint32_t sign;   // that of the scale, in both halves of a word
  bool aligned16;       // rows and pointers allow accesses of 16 bytes
  int blocks;      // that share a head
};

// A head, as a block sees it.
template <class T>
struct Head {
  const T *q, *k, *v;
  T* out;

  FASTDIFF_DEVICE Head(const Problem& p, int head)
      : q(start(p.q, p, head)), k(start(p.k, p, head)), v(start(p.v, p, head)), out(start(p.out, p, head)) {}

 private:
  static FASTDIFF_DEVICE T* start(const Heads& h, const Problem& p, int head) {
    return static_cast<T*>(h.data) + head / p.heads * h.batch_stride + head % p.heads * h.head_stride;
  }
};

}  // namespace fastdiff::cuda
