// The kernels of one instruction set. csrc/cpu/<op>.cpp is compiled once for each, as is kernels.cpp, with FASTDIFF_ISA
// naming the namespace; everything else in those objects has internal linkage, or the linker would keep one instruction
// set's copy of an inline function for all.
#pragma once

#include <cstdint>

#include "gram.h"
#include "group_norm.h"
#include "../attention.h"
#include "../solver_step.h"
#include "../token_stats.h"

namespace fastdiff::cpu {

// Tasks [first, last) of an op, as the dispatch_<op>.cpp that call them count them.
struct Kernels {
  void (*solver_step)(const SolverStep&, int64_t first, int64_t last);
  void (*attention)(const Attention&, int64_t rows, int64_t first, int64_t last);
  void (*group_norm)(const GroupNorm&, int64_t first, int64_t last);
  void (*group_norm_moments)(const GroupNorm&, const Slices&, int64_t first, int64_t last);
  void (*group_norm_affine)(const GroupNorm&, const Slices&, int64_t first, int64_t last);
  void (*group_norm_rows)(const GroupNorm&, const Slices&, int64_t first, int64_t last);
  void (*gram)(const Gram&, double* partial, int64_t first, int64_t last);
  void (*token_stats)(const TokenStats&, int64_t first, int64_t last);
};

#ifdef FASTDIFF_ISA
namespace FASTDIFF_ISA {
void solver_step(const SolverStep&, int64_t first, int64_t last);
void attention(const Attention&, int64_t rows, int64_t first, int64_t last);
void group_norm(const GroupNorm&, int64_t first, int64_t last);
void group_norm_moments(const GroupNorm&, const Slices&, int64_t first, int64_t last);
void group_norm_affine(const GroupNorm&, const Slices&, int64_t first, int64_t last);
void group_norm_rows(const GroupNorm&, const Slices&, int64_t first, int64_t last);
void gram(const Gram&, double* partial, int64_t first, int64_t last);
void token_stats(const TokenStats&, int64_t first, int64_t last);
}  // namespace FASTDIFF_ISA
#endif

}  // namespace fastdiff::cpu
