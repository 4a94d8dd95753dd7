// A model of a block of threads: each thread is a fiber, and runs until it must wait for others. Which warp goes on is
// drawn by lot; memory that a thread has not waited for is not there yet.
#pragma once

#include <cstdint>
#include <functional>

namespace fastdiff::cuda {

// body(thread) for each of the threads. Ends the program where they wait for each other in vain, or disagree.
void run_block(int threads, const char* shared, uint32_t lot, const std::function<void(int)>& body);

}  // namespace fastdiff::cuda
