// gram on CUDA: what the binding calls.
#pragma once

#include "../gram.h"

namespace fastdiff::cuda {

// Bytes of device memory that the call works in.
int64_t gram_workspace(const Gram& gram);

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* gram(const Gram& gram, void* workspace, void* stream);

}  // namespace fastdiff::cuda
