// What a launch depends on beside the call.
#pragma once

#include <cstdint>

namespace fastdiff::cuda {

struct Device {
  int arch;                 // 80 for compute capability 8.0
  int64_t multiprocessors;  // wide, as the numbers of blocks that it is multiplied into
  int block_shared, shared;  // bytes of shared memory: the most of a block, and those of a multiprocessor
};

}  // namespace fastdiff::cuda
