// What the blocks of a launch do together: those of a cluster through each other's shared memory, those of a
// cooperative launch through flags in global memory. As in block.h, plain C++ has the declarations only.
#pragma once

#include "block.h"

namespace fastdiff::cuda {

#if defined(__CUDACC__)

// A barrier of the cluster in two halves. What a block wrote before it arrived is seen by those that waited.
FASTDIFF_DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

FASTDIFF_DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// `shared` of this block as it lies in block `rank` of the cluster.
template <class T>
FASTDIFF_DEVICE T* map_shared_rank(T* shared, [[maybe_unused]] int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t peer;
  asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<T*>(peer);
#else
  return shared;
#endif
}

// Whoever sees the flag raised sees what this thread wrote before.
FASTDIFF_DEVICE void raise_flag(uint32_t* flag) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1) : "memory");
}

FASTDIFF_DEVICE void wait_flag(const uint32_t* flag) {
  uint32_t raised;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
  } while (raised == 0);
}

#else

void cluster_arrive();
void cluster_wait();
void* peer_of(void* shared, int rank);
void raise_flag(uint32_t* flag);
void wait_flag(const uint32_t* flag);

template <class T>
T* map_shared_rank(T* shared, int rank) {
  return static_cast<T*>(peer_of(shared, rank));
}

#endif

}  // namespace fastdiff::cuda
