// attention on CUDA; each dtype is compiled on its own.
#include "attention.h"

#include "attention_device.h"
#include "device_query.h"

namespace fastdiff::cuda {

const char* attention(const Attention& a, void* on) {
  const cudaStream_t stream = static_cast<cudaStream_t>(on);
  if (a.dtype == DType::f32) return attention_f32(a, stream);
  Device device{};
  const cudaError_t error = query_current(device);
  if (error != cudaSuccess) return message(error);
  return a.dtype == DType::f16 ? attention_f16(a, device, stream) : attention_bf16(a, device, stream);
}

}  // namespace fastdiff::cuda
