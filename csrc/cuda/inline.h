// A function for both sides: always inlined on the device, plain C++ elsewhere. Unlike FASTDIFF_HD it suits members.
#pragma once

#if defined(__CUDACC__)
#define FASTDIFF_INLINE __host__ __device__ __forceinline__
#else
#define FASTDIFF_INLINE inline
#endif
