// token_stats on CUDA: what the binding calls.
#pragma once

#include "../token_stats.h"

namespace fastdiff::cuda {

// Bytes of device memory that the call works in.
int64_t token_stats_workspace(const TokenStats& stats);

// Launches on `stream` (a cudaStream_t) of the current device. Null, or what went wrong.
const char* token_stats(const TokenStats& stats, void* workspace, void* stream);

}  // namespace fastdiff::cuda
