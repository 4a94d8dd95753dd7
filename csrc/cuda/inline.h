// Functions for both sides, and those for the device alone: always inlined there, plain C++ elsewhere. Unlike
// FASTDIFF_HD they suit members.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTDIFF_INLINE __host__ __device__ __forceinline__
#define FASTDIFF_DEVICE __device__ __forceinline__
#else
#define FASTDIFF_INLINE inline
#define FASTDIFF_DEVICE inline
#endif

namespace fastdiff::cuda {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastdiff::cuda
