#include "isa.h"

#include <atomic>
#include <cstring>

namespace fastdiff::cpu {

namespace {

constexpr Isa kAll[] = {
#define FASTDIFF_VALUE(isa) Isa::isa,
    FASTDIFF_FOR_EACH_ISA(FASTDIFF_VALUE)
#undef FASTDIFF_VALUE
};

Isa best() {
  Isa found = Isa::portable;
  for (Isa isa : kAll) {
    if (machine_has(isa)) found = isa;
  }
  return found;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

const char* isa_name(Isa isa) {
  switch (isa) {
#define FASTDIFF_NAME(name) \
  case Isa::name: return #name;
    FASTDIFF_FOR_EACH_ISA(FASTDIFF_NAME)
#undef FASTDIFF_NAME
  }
  return "";
}

bool machine_has(Isa isa) {
#ifdef FASTDIFF_X86
  if (isa == Isa::avx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  if (isa == Isa::avx512) {
    return machine_has(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
#ifdef FASTDIFF_AVX512_BF16
  if (isa == Isa::avx512_bf16) return machine_has(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#endif
  return isa == Isa::portable;
}

bool set_isa(const char* name) {
  for (Isa isa : kAll) {
    if (std::strcmp(name, isa_name(isa)) == 0 && machine_has(isa)) {
      current().store(isa, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace fastdiff::cpu
