// attention on CUDA: what the binding calls.
#pragma once

#include "../attention.h"

namespace fastdiff::cuda {

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* attention(const Attention& attention, void* stream);

}  // namespace fastdiff::cuda
