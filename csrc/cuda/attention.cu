// attention on CUDA; each dtype is compiled on its own.
#include "attention.h"

#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention(const Attention& a, void* on) {
  const cudaStream_t stream = static_cast<cudaStream_t>(on);
  if (a.dtype == DType::f32) return attention_f32(a, stream);
  int device = 0, multiprocessors = 0, shared_memory = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  ask(cudaDevAttrMultiProcessorCount, multiprocessors);
  ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, shared_memory);
  ask(cudaDevAttrComputeCapabilityMajor, major);
  ask(cudaDevAttrComputeCapabilityMinor, minor);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const Machine machine{multiprocessors, shared_memory, major == 9 && minor == 0};
  return a.dtype == DType::f16 ? attention_f16(a, machine, stream) : attention_bf16(a, machine, stream);
}

}  // namespace fastdiff::cuda
