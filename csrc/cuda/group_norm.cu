// group_norm on CUDA: what the plan asks for, launched on the current device.
#include "group_norm.h"

#include "device_query.h"
#include "group_norm_kernels.h"
#include "group_norm_plan.h"
#include "launch.h"

namespace fastdiff::cuda {
namespace {

template <class E, bool kLast>
__global__ void __launch_bounds__(kNormThreads, kTeamBlocks) resident_kernel(const __grid_constant__ Slabs s) {
  extern __shared__ __align__(16) char shared[];
  resident_thread<E, kLast>(s, blockIdx.x, threadIdx.x, shared);
}

template <class E, bool kLast>
__global__ void __launch_bounds__(kNormThreads, kTeamBlocks) statistics_kernel(const __grid_constant__ Slabs s) {
  extern __shared__ __align__(16) char shared[];
  statistics_thread<E, kLast>(s, blockIdx.x, threadIdx.x, shared);
}

template <class E, bool kLast>
__global__ void __launch_bounds__(kNormThreads, kTeamBlocks) output_kernel(const __grid_constant__ Slabs s) {
  extern __shared__ __align__(16) char shared[];
  output_thread<E, kLast>(s, blockIdx.x, threadIdx.x, shared);
}

using Kernel = void (*)(Slabs);

struct OnStream {
  cudaStream_t stream;

  template <class E, bool kLast>
  const char* run(const Plan& p) const {
    cudaError_t error = cudaSuccess;
    if (p.form == Form::twice) {
      error = launch(statistics_kernel<E, kLast>, p);
      if (error == cudaSuccess) error = launch(output_kernel<E, kLast>, p);
    } else {
      if (p.form == Form::together) error = cudaMemsetAsync(p.slabs.records, 0, workspace_bytes(p), stream);
      if (error == cudaSuccess) error = launch(resident_kernel<E, kLast>, p);
    }
    return message(error);
  }

 private:
  cudaError_t launch(Kernel kernel, const Plan& p) const {
    if (p.shared > 48 * 1024) {
      const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared);
      if (error != cudaSuccess) return error;
    }
    if (p.form == Form::together) {  // or blocks that the plan counts on might not be resident
      const auto all = cudaSharedmemCarveoutMaxShared;
      const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, all);
      if (error != cudaSuccess) return error;
    }
    cudaLaunchAttribute attribute{};
    if (p.form == Form::cluster) {
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(p.slabs.parts);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    } else {
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = p.form == Form::together;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(p.blocks)), config.blockDim = dim3(kNormThreads);
    config.dynamicSmemBytes = static_cast<size_t>(p.shared), config.stream = stream;
    config.attrs = &attribute, config.numAttrs = p.form == Form::cluster || p.form == Form::together;
    return cudaLaunchKernelEx(&config, kernel, p.slabs);
  }
};

}  // namespace

int64_t group_norm_workspace(const GroupNorm& norm, int device_number) {
  Device device{};
  return query(device_number, device) == cudaSuccess ? workspace_bytes(plan(norm, device)) : 0;
}

const char* group_norm(const GroupNorm& norm, void* workspace, int64_t workspace_size, void* stream) {
  Device device{};
  const cudaError_t error = query_current(device);
  if (error != cudaSuccess) return message(error);
  Plan p = plan(norm, device);
  if (workspace_bytes(p) > workspace_size) return "group_norm: the workspace is too small";
  p.slabs.records = static_cast<Record*>(workspace);
  return dispatch<Wide, Narrow>(p, OnStream{static_cast<cudaStream_t>(stream)});
}

}  // namespace fastdiff::cuda
