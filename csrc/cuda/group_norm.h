// group_norm on CUDA: what the binding calls.
#pragma once

#include "../group_norm.h"

namespace fastdiff::cuda {

// Bytes of device memory that the call works in; 0 also where the device cannot be asked, which group_norm then says.
int64_t group_norm_workspace(const GroupNorm& norm, int device);

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* group_norm(const GroupNorm& norm, void* workspace, int64_t workspace_bytes, void* stream);

}  // namespace fastdiff::cuda
