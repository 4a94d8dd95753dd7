// How kernels are put on a stream, and what is said where that fails.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastdiff::cuda {

inline const char* message(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

inline dim3 blocks_of(int64_t x, int64_t y) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }

// A kernel of one argument.
template <class Argument>
const char* launch(void (*kernel)(Argument), const Argument& argument, dim3 blocks, int threads, cudaStream_t stream) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  return message(cudaLaunchKernel(kernel, blocks, dim3(static_cast<unsigned>(threads)), arguments, 0, stream));
}

}  // namespace fastdiff::cuda
