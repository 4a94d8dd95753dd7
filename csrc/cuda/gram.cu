// gram on CUDA: both kernels, launched on the current device.
#include "gram.h"

#include <cuda_runtime.h>

#include "gram_kernels.h"
#include "launch.h"

namespace fastdiff::cuda {
namespace {

template <class T, int N, bool kDense>
__global__ void __launch_bounds__(kGramThreads) gram_part_kernel(const __grid_constant__ Parts<T> parts) {
  __shared__ GramShared<T> shared;
  part_thread<T, N, kDense>(parts, blockIdx.x, threadIdx.x, &shared);
}

__global__ void __launch_bounds__(kGramThreads) gram_sum_kernel(const __grid_constant__ Partials partials) {
  sum_thread(partials, blockIdx.x, threadIdx.x);
}

struct OnStream {
  cudaStream_t stream;

  template <class T, int N, bool kDense>
  const char* run(const Parts<T>& p) const {
    const int64_t blocks = p.size[0] * p.parts;
    if (blocks == 0) return nullptr;
    if (blocks > 0x7fffffff) return "gram: more parts than a grid has blocks";
    gram_part_kernel<T, N, kDense><<<static_cast<unsigned>(blocks), kGramThreads, 0, stream>>>(p);
    return message(cudaGetLastError());
  }
};

}  // namespace

int64_t gram_workspace(const Gram& g) {
  return g.size[0] * products(g) * parts_of(elements_per_sample(g)) * int64_t(sizeof(double));
}

const char* gram(const Gram& g, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  double* const partial = static_cast<double*>(workspace);
  if (const char* error = dispatch(g, partial, OnStream{on})) return error;
  gram_sum_kernel<<<static_cast<unsigned>(g.size[0]), kGramThreads, 0, on>>>(partials_of(g, partial));
  return message(cudaGetLastError());
}

}  // namespace fastdiff::cuda
