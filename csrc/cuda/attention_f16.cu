#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention_f16(const Attention& attention, const Machine& machine, cudaStream_t stream) {
  return prepare_halves<false>(attention, machine, OnStream{stream});
}

}  // namespace fastdiff::cuda
