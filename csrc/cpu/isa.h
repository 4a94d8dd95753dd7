// Instruction sets: which were compiled, which this machine has, which is in use. Each csrc/cpu/<op>.cpp is compiled
// once per instruction set, in its own namespace.
#pragma once

#if defined(FASTDIFF_AVX512_BF16)  // where the compiler knows it
#define FASTDIFF_FOR_EACH_ISA(DO) DO(portable) DO(avx2) DO(avx512) DO(avx512_bf16)
#elif defined(FASTDIFF_X86)
#define FASTDIFF_FOR_EACH_ISA(DO) DO(portable) DO(avx2) DO(avx512)
#else
#define FASTDIFF_FOR_EACH_ISA(DO) DO(portable)
#endif

namespace fastdiff::cpu {

enum class Isa {
#define FASTDIFF_NAME(isa) isa,
  FASTDIFF_FOR_EACH_ISA(FASTDIFF_NAME)
#undef FASTDIFF_NAME
};

Isa isa();
const char* isa_name(Isa isa);
bool machine_has(Isa isa);

// For tests: false if the name is unknown or this machine lacks it.
bool set_isa(const char* name);

}  // namespace fastdiff::cpu
