#include "isa.h"

#include <atomic>
#include <cstdint>
#include <cstring>

#ifdef FASTDIFF_X86
#include <cpuid.h>
#endif

namespace fastdiff::cpu {

namespace portable {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}

namespace {

#ifdef FASTDIFF_X86
// What the processor has and the system saves at a context switch (Intel's manual, volume 1, 13.1 to 15.4). The
// compilers' __builtin_cpu_supports asks a run-time library, which with some of them knows nothing.
class Processor {
 public:
  Processor() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return;  // xgetbv
    const uint64_t saved = saved_registers();
    const bool fma_f16c = bit(c, 12) && bit(c, 29);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = (saved & 0x06) == 0x06 && fma_f16c && bit(b, 5);
    avx512 = (saved & 0xe6) == 0xe6 && avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // f, dq, bw, vl
    avx512_bf16 = avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5);
  }

  bool avx2 = false, avx512 = false, avx512_bf16 = false;

 private:
  static bool bit(unsigned word, int i) { return word >> i & 1; }

  static uint64_t saved_registers() {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t{high} << 32 | low;
  }
};

const Processor processor;
#endif

const Isa kIsas[] = {
    {"portable", &portable::kernels, true},
#ifdef FASTDIFF_X86
    {"avx2", &avx2::kernels, processor.avx2},
    {"avx512", &avx512::kernels, processor.avx512},
#endif
#ifdef FASTDIFF_AVX512_BF16  // where the compiler knows it
    {"avx512_bf16", &avx512_bf16::kernels, processor.avx512_bf16},
#endif
    {nullptr, nullptr, false},
};

const Isa* best() {
  const Isa* found = kIsas;
  for (const Isa* isa = kIsas; isa->name; ++isa) {
    if (isa->usable) found = isa;
  }
  return found;
}

std::atomic<const Isa*> current{best()};

}  // namespace

const Isa* isas() { return kIsas; }

const Isa& isa() { return *current.load(std::memory_order_relaxed); }

bool use_isa(const char* name) {
  for (const Isa* isa = kIsas; isa->name; ++isa) {
    if (std::strcmp(name, isa->name) == 0 && isa->usable) {
      current.store(isa, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace fastdiff::cpu
