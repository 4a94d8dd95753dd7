// solver_step_rows on CUDA. A block takes a stretch of elements of one sample after another, and makes each sample's step
// of its record in shared memory, so that rows and table are read by the device alone and a captured launch serves them
// whatever they become.
#include "solver_step_rows.h"

#include <cuda_runtime.h>

#include "launch.h"
#include "solver_step_rows_kernels.h"

namespace fastdiff::cuda {
namespace {

constexpr int kBlocks = 2;  // a multiprocessor: leaves every width the registers it needs

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks) rows_kernel(const __grid_constant__ RowsStep<T> all) {
  static_assert(sizeof all <= 4096, "kernel arguments");
  __shared__ RowsShared<Step<T>> shared;
  rows_thread<T, W>(all, blockIdx.x, blockIdx.y, gridDim.y, threadIdx.x, shared);
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks)
    weighted_rows_kernel(const __grid_constant__ WeightedRowsStep<T> all) {
  static_assert(sizeof all <= 4096, "kernel arguments");
  __shared__ RowsShared<WeightedStep<T>> shared;
  rows_thread<T, W>(all, blockIdx.x, blockIdx.y, gridDim.y, threadIdx.x, shared);
}

struct OnStream {
  cudaStream_t stream;

  template <class T, int W>
  const char* run(const RowsStep<T>& s, Grid grid) const {
    return launch(rows_kernel<T, W>, s, blocks_of(grid.x, grid.y), kThreads<W>, stream);
  }

  template <class T, int W>
  const char* run(const WeightedRowsStep<T>& s, Grid grid) const {
    return launch(weighted_rows_kernel<T, W>, s, blocks_of(grid.x, grid.y), kThreads<W>, stream);
  }
};

}  // namespace

const char* solver_step_rows(const SolverStepRows& step, void* stream) {
  return prepare_rows(step, OnStream{static_cast<cudaStream_t>(stream)});
}

}  // namespace fastdiff::cuda
