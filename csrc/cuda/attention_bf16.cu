#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention_bf16(const Attention& attention, const Machine& machine, cudaStream_t stream) {
  return prepare_halves<true>(attention, machine, OnStream{stream});
}

}  // namespace fastdiff::cuda
