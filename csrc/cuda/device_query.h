// A Device as the driver describes it.
#pragma once

#include <cuda_runtime.h>

#include "device.h"

namespace fastdiff::cuda {

inline cudaError_t query(int number, Device& device) {
  int major = 0, minor = 0, multiprocessors = 0;
  cudaError_t error = cudaSuccess;
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, number);
  };
  ask(cudaDevAttrComputeCapabilityMajor, major);
  ask(cudaDevAttrComputeCapabilityMinor, minor);
  ask(cudaDevAttrMultiProcessorCount, multiprocessors);
  ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.block_shared);
  ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device.shared);
  device.arch = 10 * major + minor, device.multiprocessors = multiprocessors;
  return error;
}

inline cudaError_t query_current(Device& device) {
  int number = 0;
  const cudaError_t error = cudaGetDevice(&number);
  return error == cudaSuccess ? query(number, device) : error;
}

}  // namespace fastdiff::cuda
