// Row *counter of a table of packed steps, then the counter and the model's time moved on to the next.
#include <cuda_runtime.h>

#include "launch.h"
#include "solver_step_table.h"

namespace fastdiff::cuda {
namespace {

constexpr int kAdvanceThreads = 128;
constexpr int kBlocks = 2;  // a multiprocessor: leaves every width the registers it needs

template <class T, int W, class S>
__device__ __forceinline__ void run_row(const S* steps, const int64_t* counter) {
  __shared__ int64_t row[sizeof(S) / 8];
  const int64_t* from = reinterpret_cast<const int64_t*>(steps + *counter);
  for (int k = threadIdx.x; k < static_cast<int>(sizeof(S) / 8); k += kThreads<W>) row[k] = from[k];
  __syncthreads();
  solver_step_thread<T, W>(*reinterpret_cast<const S*>(row), blockIdx.x, blockIdx.y, gridDim.y, threadIdx.x);
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks) table_kernel(const Step<T>* steps, const int64_t* counter) {
  run_row<T, W>(steps, counter);
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks)
    mixed_table_kernel(const MixedStep<T>* steps, const int64_t* counter) {
  run_row<T, W>(steps, counter);
}

__global__ void advance_kernel(StepTable table) {
  const int64_t next = *table.counter + 1;
  __syncthreads();
  if (threadIdx.x == 0) *table.counter = next;
  if (next >= table.rows) return;
  for (int64_t k = threadIdx.x; k < table.t_words; k += kAdvanceThreads) {
    table.t[k] = table.times[next * table.t_words + k];
  }
}

template <class T, int W>
cudaError_t launch(const StepTable& table, cudaStream_t stream) {
  const dim3 blocks = blocks_of(table.grid.x, table.grid.y);
  if constexpr (W < 8) {
    if (table.weighted) {
      const auto* steps = static_cast<const MixedStep<T>*>(table.steps);
      mixed_table_kernel<T, W><<<blocks, kThreads<W>, 0, stream>>>(steps, table.counter);
      return cudaGetLastError();
    }
  }
  table_kernel<T, W><<<blocks, kThreads<W>, 0, stream>>>(static_cast<const Step<T>*>(table.steps), table.counter);
  return cudaGetLastError();
}

cudaError_t launch(const StepTable& table, cudaStream_t stream) {
  if (table.precision == 8) {
    return table.width == 4 ? launch<double, 4>(table, stream) : launch<double, 1>(table, stream);
  }
  if (table.width == 8) return launch<float, 8>(table, stream);
  return table.width == 4 ? launch<float, 4>(table, stream) : launch<float, 1>(table, stream);
}

}  // namespace

const char* solver_step_table(const StepTable& table, void* on) {
  const cudaStream_t stream = static_cast<cudaStream_t>(on);
  cudaError_t error = launch(table, stream);
  if (error == cudaSuccess) {
    advance_kernel<<<1, kAdvanceThreads, 0, stream>>>(table);
    error = cudaGetLastError();
  }
  return message(error);
}

}  // namespace fastdiff::cuda
