#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention_f16(const Attention& attention, const Device& device, cudaStream_t stream) {
  return prepare_half<false>(attention, device, OnStream{stream});
}

}  // namespace fastdiff::cuda
