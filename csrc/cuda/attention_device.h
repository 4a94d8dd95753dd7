// The launcher of one dtype.
#pragma once

#include <cuda_runtime.h>

#include "attention_launch.h"
#include "launch.h"

namespace fastdiff::cuda {

const char* attention_f32(const Attention& attention, cudaStream_t stream);
const char* attention_f16(const Attention& attention, const Device& device, cudaStream_t stream);
const char* attention_bf16(const Attention& attention, const Device& device, cudaStream_t stream);

namespace {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1) attention_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) char shared[];
  Kernel::run(p, shared, blockIdx.x, threadIdx.x);
}

struct OnStream {
  cudaStream_t stream;

  template <class Kernel>
  const char* run(const Problem& p, int blocks) const {
    const auto kernel = attention_kernel<Kernel>;
    cudaError_t error = cudaSuccess;
    if (Kernel::kShared > 48 * 1024) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kShared);
    }
    if (error == cudaSuccess) {
      kernel<<<blocks, Kernel::kThreads, Kernel::kShared, stream>>>(p);
      error = cudaGetLastError();
    }
    return message(error);
  }
};

}  // namespace
}  // namespace fastdiff::cuda
