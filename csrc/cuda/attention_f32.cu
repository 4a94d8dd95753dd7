#include "attention_device.h"

namespace fastdiff::cuda {

const char* attention_f32(const Attention& attention, cudaStream_t stream) {
  return prepare_float32(attention, OnStream{stream});
}

}  // namespace fastdiff::cuda
