#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention_bf16(const Attention& attention, const Device& device, cudaStream_t stream) {
  return prepare_half<true>(attention, device, OnStream{stream});
}

}  // namespace fastdiff::cuda
