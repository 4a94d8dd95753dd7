// What the threads of a block do together. Plain C++ has the declarations only: the tests define them by a model of a
// block, and so run the kernels' own code without a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "inline.h"

namespace fastdiff::cuda {

#if defined(__CUDACC__)

FASTDIFF_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

FASTDIFF_DEVICE void sync_block() { __syncthreads(); }
FASTDIFF_DEVICE void sync_warp() { __syncwarp(); }
FASTDIFF_DEVICE float shuffle_xor(float v, int lanes) { return __shfl_xor_sync(0xffffffffu, v, lanes); }

// 16 bytes from global to shared memory, on their way until the thread waits for them; zeros where not `there`.
FASTDIFF_DEVICE void cp_async_16(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               ::"r"(shared_address(shared)), "l"(global), "r"(there ? 16 : 0)
               : "memory");
}

FASTDIFF_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the latest kPending groups of this thread's copies have come.
template <int kPending>
FASTDIFF_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// kCount 8x8 matrices of halves; lane 8 i + r names row r of matrix i. Lane l gets elements 2 (l % 4) and the next of
// row l / 4 of each, or of its transpose.
template <int kCount, bool kTransposed>
FASTDIFF_DEVICE void ldmatrix(uint32_t (&to)[kCount], const void* row) {
  static_assert(kCount == 2 || kCount == 4);
  const uint32_t at = shared_address(row);
  if constexpr (kCount == 4 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(at)
                 : "memory");
  }
}

// c += a b for a of 16x16 and b of 16x8 halves. Lane l has rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next of
// c; a and b come as ldmatrix gives them.
template <bool kBf16>
FASTDIFF_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kBf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// The same for a of 16x8 and b of 8x8.
template <bool kBf16>
FASTDIFF_DEVICE void mma_m16n8k8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  if constexpr (kBf16) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  }
}

// 2^x to 2 units in the last place.
FASTDIFF_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

void sync_block();
void sync_warp();
float shuffle_xor(float v, int lanes);
void cp_async_16(void* shared, const void* global, bool there);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix(uint32_t* to, int count, bool transposed, const void* row);
void multiply(float* c, const uint32_t* a, const uint32_t* b, int depth, bool bf16);

template <int kPending>
void cp_async_wait() {
  cp_async_wait(kPending);
}

template <int kCount, bool kTransposed>
void ldmatrix(uint32_t (&to)[kCount], const void* row) {
  ldmatrix(to, kCount, kTransposed, row);
}

template <bool kBf16>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[] = {b0, b1};
  multiply(c, a, b, 16, kBf16);
}

template <bool kBf16>
void mma_m16n8k8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  multiply(c, a, &b, 8, kBf16);
}

inline float exp2_fast(float x) { return std::exp2(x); }

#endif

}  // namespace fastdiff::cuda
