// A model of blocks of threads that run at once: each thread is a fiber, and runs until it must wait for others. Which
// warp goes on is drawn by lot, and memory that a thread has not waited for is not there yet.
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

// body(block, thread, shared) for each thread. Ends the program where they wait in vain, or for different things.
void run_grid(const Launch& launch, const std::function<void(int64_t, int, char*)>& body);

}  // namespace fastdiff::cuda
