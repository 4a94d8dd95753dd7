// What Hopper's warpgroups of 128 threads do together (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions" and
// "mbarrier"), for sm_90a. As in block.h, plain C++ has the declarations only.
#pragma once

#include "block.h"

namespace fastdiff::cuda {

// A matrix of halves in shared memory as 8x8 cores of 128 consecutive bytes, 16 for each row of a core. `leading` is
// the distance in bytes between cores along the inner dimension of the product, `stride` along the other one, whichever
// of the two is contiguous within a core.
FASTDIFF_DEVICE uint64_t matrix_descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
  const uint64_t distances = static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32;
  return distances | (address & 0x3ffffu) >> 4;
}

#if defined(__CUDACC__)

FASTDIFF_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

FASTDIFF_DEVICE void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(shared_address(barrier))
               : "memory");
}

// Until the phase of this parity is over.
FASTDIFF_DEVICE void mbarrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// What this thread has written to shared memory is there for products.
FASTDIFF_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

FASTDIFF_DEVICE void sync_warpgroup(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }

template <int kRegisters>
FASTDIFF_DEVICE void decrease_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
FASTDIFF_DEVICE void increase_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// What was to be written to these registers has been, and what is to be read has not.
template <int kCount>
FASTDIFF_DEVICE void fence_operands(float (&r)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    asm volatile("" : "+f"(r[n][0]), "+f"(r[n][1]), "+f"(r[n][2]), "+f"(r[n][3])::"memory");
  }
}

template <int kCount>
FASTDIFF_DEVICE void fence_operands(uint32_t (&r)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    asm volatile("" : "+r"(r[n][0]), "+r"(r[n][1]), "+r"(r[n][2]), "+r"(r[n][3])::"memory");
  }
}

// Before products with these registers, which are the products' own from here on.
template <class... Registers>
FASTDIFF_DEVICE void wgmma_begin(Registers&... registers) {
  (fence_operands(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Until all products are done, and their registers the thread's again.
template <int kCount>
FASTDIFF_DEVICE void wgmma_finish(float (&d)[kCount][4]) {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  fence_operands(d);
}

#define FASTDIFF_D1(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define FASTDIFF_D5 FASTDIFF_D1(0), FASTDIFF_D1(1), FASTDIFF_D1(2), FASTDIFF_D1(3), FASTDIFF_D1(4)
#define FASTDIFF_D8 FASTDIFF_D5, FASTDIFF_D1(5), FASTDIFF_D1(6), FASTDIFF_D1(7)
#define FASTDIFF_D9 FASTDIFF_D8, FASTDIFF_D1(8)
#define FASTDIFF_D10 FASTDIFF_D9, FASTDIFF_D1(9)
#define FASTDIFF_D16 \
  FASTDIFF_D10, FASTDIFF_D1(10), FASTDIFF_D1(11), FASTDIFF_D1(12), FASTDIFF_D1(13), FASTDIFF_D1(14), FASTDIFF_D1(15)
#define FASTDIFF_D20 FASTDIFF_D16, FASTDIFF_D1(16), FASTDIFF_D1(17), FASTDIFF_D1(18), FASTDIFF_D1(19)
#define FASTDIFF_R5 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19"
#define FASTDIFF_R8 FASTDIFF_R5 ",%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define FASTDIFF_R9 FASTDIFF_R8 ",%32,%33,%34,%35"
#define FASTDIFF_R10 FASTDIFF_R9 ",%36,%37,%38,%39"
#define FASTDIFF_R16 \
  FASTDIFF_R10 ",%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define FASTDIFF_R20 FASTDIFF_R16 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"

// d += a b, with a of 64x16 and b of 16 rows, both from shared memory, the inner dimension contiguous within cores.
template <bool kBf16>
FASTDIFF_DEVICE void wgmma_shared(float (&d)[16][4], uint64_t a, uint64_t b) {
  if constexpr (kBf16) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FASTDIFF_R16 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : FASTDIFF_D16
                 : "l"(a), "l"(b));
  } else {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" FASTDIFF_R16 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : FASTDIFF_D16
                 : "l"(a), "l"(b));
  }
}

template <bool kBf16, int kNTiles>
struct WgmmaRegisters;

#define FASTDIFF_WGMMA_REGISTERS(bf16, half, wide, columns, a0, a1, a2, a3, b0)                                       \
  template <>                                                                                                         \
  struct WgmmaRegisters<bf16, wide> {                                                                                 \
    static FASTDIFF_DEVICE void run(float (&d)[wide][4], const uint32_t (&a)[4], uint64_t b) {                        \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #half "." #half " {" FASTDIFF_R##wide      \
                   "}, {" #a0 ", " #a1 ", " #a2 ", " #a3 "}, " #b0 ", 1, 1, 1, 1;"                                    \
                   : FASTDIFF_D##wide                                                                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                             \
    }                                                                                                                 \
  };
#define FASTDIFF_WGMMA_REGISTERS_HALVES(...)        \
  FASTDIFF_WGMMA_REGISTERS(false, f16, __VA_ARGS__) \
  FASTDIFF_WGMMA_REGISTERS(true, bf16, __VA_ARGS__)
FASTDIFF_WGMMA_REGISTERS_HALVES(5, 40, %20, %21, %22, %23, %24)
FASTDIFF_WGMMA_REGISTERS_HALVES(8, 64, %32, %33, %34, %35, %36)
FASTDIFF_WGMMA_REGISTERS_HALVES(9, 72, %36, %37, %38, %39, %40)
FASTDIFF_WGMMA_REGISTERS_HALVES(10, 80, %40, %41, %42, %43, %44)
FASTDIFF_WGMMA_REGISTERS_HALVES(16, 128, %64, %65, %66, %67, %68)
FASTDIFF_WGMMA_REGISTERS_HALVES(20, 160, %80, %81, %82, %83, %84)

// d += a b, with a of 64x16 in registers, as mma_m16n8k16 takes it from each warp, and b of 16 x 8 kNTiles from shared
// memory, the outer dimension contiguous within cores.
template <bool kBf16, int kNTiles>
FASTDIFF_DEVICE void wgmma_registers(float (&d)[kNTiles][4], const uint32_t (&a)[4], uint64_t b) {
  WgmmaRegisters<kBf16, kNTiles>::run(d, a, b);
}

#else

uint32_t shared_address(const void* shared);
void mbarrier_init(uint64_t* barrier, int arrivals);
void mbarrier_arrive(uint64_t* barrier);
void mbarrier_wait(uint64_t* barrier, int parity);
void fence_async_proxy();
void sync_warpgroup(int id);
void wgmma_begin();
void wgmma_finish();
void wgmma_shared(float* d, uint64_t a, uint64_t b, bool bf16);
void wgmma_registers(float* d, int wide, const uint32_t* a, uint64_t b, bool bf16);

template <int kRegisters>
void decrease_registers() {}

template <int kRegisters>
void increase_registers() {}

template <class... Registers>
void wgmma_begin(Registers&...) {
  wgmma_begin();
}

template <int kCount>
void wgmma_finish(float (&)[kCount][4]) {
  wgmma_finish();
}

template <bool kBf16>
void wgmma_shared(float (&d)[16][4], uint64_t a, uint64_t b) {
  wgmma_shared(d[0], a, b, kBf16);
}

template <bool kBf16, int kNTiles>
void wgmma_registers(float (&d)[kNTiles][4], const uint32_t (&a)[4], uint64_t b) {
  wgmma_registers(d[0], kNTiles, a, b, kBf16);
}

#endif

}  // namespace fastdiff::cuda
