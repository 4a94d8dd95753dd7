// Many blocks on the model of a block (block.h): those of a cluster, or of a whole launch, run at once.
#pragma once

#include <cstdint>
#include <functional>

namespace fastdiff::cuda {

struct Launch {
  int64_t blocks;
  int threads, shared;  // of a block; bytes
  int64_t resident;     // blocks that run at once: one, those of a cluster, or all; divides blocks
  uint32_t lot;
};

// body(block, thread, shared) for each thread.
void run_grid(const Launch& launch, const std::function<void(int64_t, int, char*)>& body);

}  // namespace fastdiff::cuda
