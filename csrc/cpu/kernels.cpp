#include "kernels.h"

namespace fastdiff::cpu::FASTDIFF_ISA {

// A constant, so that loading the library runs no code of an instruction set that the machine may lack.
extern const Kernels kernels;
constexpr Kernels kernels = {
    solver_step, attention, group_norm, group_norm_moments, group_norm_affine, group_norm_rows, gram, token_stats,
};

}  // namespace fastdiff::cpu::FASTDIFF_ISA
