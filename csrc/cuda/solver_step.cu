// solver_step on CUDA. There is one kernel for each compute type and width; dtypes and absent operands are uniform
// branches, which cost little beside the memory traffic and keep any mix of dtypes down to five kernels, and four more
// for steps with weights.
#include "solver_step.h"

#include <cuda_runtime.h>

#include "launch.h"
#include "solver_step_launch.h"

namespace fastdiff::cuda {
namespace {

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>) solver_step_kernel(const __grid_constant__ Step<T> s) {
  static_assert(sizeof s <= 4096, "kernel arguments");
  solver_step_thread<T, W>(s, blockIdx.x, blockIdx.y, gridDim.y, threadIdx.x);
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>) weighted_kernel(const __grid_constant__ WeightedStep<T> s) {
  static_assert(sizeof s <= 4096, "kernel arguments");
  solver_step_thread<T, W>(s, blockIdx.x, blockIdx.y, gridDim.y, threadIdx.x);
}

struct OnStream {
  cudaStream_t stream;

  template <class T, int W>
  const char* run(const Step<T>& s, Grid grid) const {
    return launch(solver_step_kernel<T, W>, s, blocks_of(grid.x, grid.y), kThreads<W>, stream);
  }

  template <class T, int W>
  const char* run(const WeightedStep<T>& s, Grid grid) const {
    return launch(weighted_kernel<T, W>, s, blocks_of(grid.x, grid.y), kThreads<W>, stream);
  }
};

}  // namespace

const char* solver_step(const SolverStep& step, void* stream) {
  return prepare(step, step.weights != nullptr, OnStream{static_cast<cudaStream_t>(stream)});
}

}  // namespace fastdiff::cuda
