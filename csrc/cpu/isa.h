// Instruction sets: which were compiled, which this machine has, which is in use.
#pragma once

#include "kernels.h"

namespace fastdiff::cpu {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool usable;  // by this machine
};

// All that were compiled, the best last; ends where name is null.
const Isa* isas();

const Isa& isa();
inline const Kernels& kernels() { return *isa().kernels; }

// For tests: false if the name is unknown or this machine lacks it.
bool use_isa(const char* name);

}  // namespace fastdiff::cpu
