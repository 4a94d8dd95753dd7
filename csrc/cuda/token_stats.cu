// token_stats on CUDA: its kernels, launched on the current device.
#include "token_stats.h"

#include <cuda_runtime.h>

#include "launch.h"
#include "token_cut_kernel.h"
#include "token_stats_kernels.h"

namespace fastdiff::cuda {
namespace {

__global__ void __launch_bounds__(kCutThreads, 1) token_cut_kernel(const __grid_constant__ TokenCall call) {
  __shared__ CutShared shared;
  token_cut_thread(call, blockIdx.x, threadIdx.x, &shared);
}

__global__ void __launch_bounds__(kTokenThreads) token_part_kernel(const __grid_constant__ TokenCall call) {
  __shared__ PartShared shared;
  token_part_thread(call, blockIdx.x, threadIdx.x, &shared);
}

__global__ void __launch_bounds__(kTokenThreads, 1) token_row_kernel(const __grid_constant__ TokenCall call) {
  __shared__ RowShared shared;
  token_row_thread(call, blockIdx.x, threadIdx.x, &shared);
}

}  // namespace

int64_t token_stats_workspace(const TokenStats& stats) { return workspace_of(stats); }

const char* token_stats(const TokenStats& stats, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const TokenCall call = call_of(stats, workspace);
  if (call.rows * call.parts > 0x7fffffff) return "token_stats: more parts than a grid has blocks";
  const auto rows = static_cast<unsigned>(call.rows), parts = static_cast<unsigned>(call.rows * call.parts);
  if (call.cut) token_cut_kernel<<<rows, kCutThreads, 0, on>>>(call);
  token_part_kernel<<<parts, kTokenThreads, 0, on>>>(call);
  token_row_kernel<<<rows, kTokenThreads, 0, on>>>(call);
  return message(cudaGetLastError());
}

}  // namespace fastdiff::cuda
