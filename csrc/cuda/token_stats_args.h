// The argument of token_stats' kernels, and how rows are cut into parts, one for each block: by the vocabulary alone, so
// that a row's result does not depend on the batch. Plain C++ for the launcher and its tests.
#pragma once

#include "../token_stats.h"
#include "inline.h"

namespace fastdiff::cuda {

constexpr int kTokenThreads = 256;
constexpr int kTokenWidth = 8;  // neighbouring logits that a thread takes at once
constexpr int kTokenTurns = 2;  // as often
constexpr int kTurn = kTokenThreads * kTokenWidth;
constexpr int kPart = kTurn * kTokenTurns;
constexpr int kCutThreads = 256;

// Of a part: its two largest logits and where the first is, the sums of w = e^(z - m) and of w (z - m), where m is the
// largest, and the same at the temperature; then what the last sum counts for in the row's.
struct TokenPart {
  float largest, second, sum, moment, drawn, drawn_moment;
  int64_t argmax;
  double share;
};

// Of a row: the least logit's key that is kept, and the last token of that key.
struct RowCut {
  int64_t key, last;
};

struct TokenCall {
  TokenStats t;
  int64_t rows, parts;  // parts of a row
  bool by_count, by_mass;
  bool aligned;  // kTokenWidth logits at a time can be had of every row
  TokenPart* part;  // [rows, parts]
  RowCut* cut;      // [rows], null where all is kept
};

inline bool is_aligned(const TokenStats& t, const Logits& logits) {
  const int64_t bytes = t.dtype == DType::f32 ? 4 : 2;
  const auto falls = [&](int64_t offset) { return offset * bytes % 16 == 0; };
  return reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && (t.batch == 1 || falls(logits.stride[0])) &&
         (t.length == 1 || falls(logits.stride[1]));
}

inline int64_t parts_of(const TokenStats& t) { return ceil_div(t.vocabulary, kPart); }

inline bool is_cut(const TokenStats& t) {
  return t.temperature && ((t.top_k > 0 && t.top_k < t.vocabulary) || t.top_p < 1);
}

inline int64_t workspace_of(const TokenStats& t) {
  const int64_t rows = t.batch * t.length;
  return rows * parts_of(t) * int64_t(sizeof(TokenPart)) + (is_cut(t) ? rows * int64_t(sizeof(RowCut)) : 0);
}

inline TokenCall call_of(const TokenStats& t, void* workspace) {
  TokenCall c{};
  c.t = t, c.rows = t.batch * t.length, c.parts = parts_of(t);
  c.by_count = t.top_k > 0 && t.top_k < t.vocabulary, c.by_mass = t.top_p < 1;
  c.aligned = is_aligned(t, t.logits) && (!t.uncond.data || is_aligned(t, t.uncond));
  c.part = static_cast<TokenPart*>(workspace);
  if (is_cut(t)) c.cut = reinterpret_cast<RowCut*>(c.part + c.rows * c.parts);
  return c;
}

}  // namespace fastdiff::cuda
