// solver_step_rows on CUDA. A block takes a stretch of elements of one sample after another, and makes each sample's step
// of its record in shared memory, so that rows and table are read by the device alone and a captured launch serves them
// whatever they become.
#include "solver_step_rows.h"

#include <cuda_runtime.h>

#include "solver_step_rows_math.h"

namespace fastdiff::cuda {
namespace {

constexpr int kWords = sizeof(Record) / sizeof(int64_t);
constexpr int kBlocks = 2;  // a multiprocessor: leaves every width the registers it needs

template <int Threads>
__device__ __forceinline__ void copy_words(int64_t* to, const int64_t* from, int words) {
  for (int k = threadIdx.x; k < words; k += Threads) to[k] = from[k];
}

template <class T, int W, template <class> class All>
__device__ __forceinline__ void run_rows(const All<T>& all) {
  using Own = typename All<T>::Own;
  __shared__ int64_t own_words[sizeof(Own) / 8], record_words[kWords];
  __shared__ bool moves;
  Own& own = *reinterpret_cast<Own*>(own_words);
  const Own& shared = all;
  copy_words<kThreads<W>>(own_words, reinterpret_cast<const int64_t*>(&shared), sizeof(Own) / 8);
  const int64_t element = (static_cast<int64_t>(blockIdx.x) * kThreads<W> + threadIdx.x) * W;
  for (int64_t sample = blockIdx.y; sample < all.size[0]; sample += gridDim.y) {
    const Record* record = all.lookup.record(sample);
    if (record == nullptr) continue;
    copy_words<kThreads<W>>(record_words, reinterpret_cast<const int64_t*>(record), kWords);
    __syncthreads();
    if (threadIdx.x == 0) moves = take_record(own, all, *reinterpret_cast<const Record*>(record_words), sample);
    __syncthreads();
    if (moves && element < all.elements) solver_step_elements<T, W>(own, sample, element);
    __syncthreads();  // before the next sample's step takes the place of this one's
  }
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks) rows_kernel(const __grid_constant__ RowsStep<T> all) {
  static_assert(sizeof all <= 4096, "kernel arguments");
  run_rows<T, W>(all);
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads<W>, kBlocks)
    weighted_rows_kernel(const __grid_constant__ WeightedRowsStep<T> all) {
  static_assert(sizeof all <= 4096, "kernel arguments");
  run_rows<T, W>(all);
}

struct OnStream {
  cudaStream_t stream;

  template <class T, int W>
  const char* run(const RowsStep<T>& s, Grid grid) const {
    return launch<W>(rows_kernel<T, W>, s, grid);
  }

  template <class T, int W>
  const char* run(const WeightedRowsStep<T>& s, Grid grid) const {
    return launch<W>(weighted_rows_kernel<T, W>, s, grid);
  }

 private:
  template <int W, class S>
  const char* launch(void (*kernel)(S), const S& s, Grid grid) const {
    void* arguments[] = {const_cast<S*>(&s)};
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    const cudaError_t error = cudaLaunchKernel(kernel, blocks, dim3(kThreads<W>), arguments, 0, stream);
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
};

}  // namespace

const char* solver_step_rows(const SolverStepRows& step, void* stream) {
  return prepare_rows(step, OnStream{static_cast<cudaStream_t>(stream)});
}

}  // namespace fastdiff::cuda
