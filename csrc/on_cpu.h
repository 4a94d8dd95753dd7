// Runs a kernel of an op on the CPU.
#pragma once

#include "bind.h"
#include "tensor.h"

namespace fastdiff {

constexpr int64_t kBrief = 1 << 18;  // elements; with fewer a call is over before another thread could use the GIL

// kernel(threads): with torch's threads where more than one is useful, and holding the GIL where it is brief. False with
// a Python error set where the threads cannot be counted.
template <class Kernel>
bool on_cpu(int useful, bool brief, Kernel kernel) {
  const int threads = useful > 1 ? torch_threads() : 1;
  if (threads < 0) return false;
  if (brief) {
    kernel(threads);
  } else {
    Py_BEGIN_ALLOW_THREADS;
    kernel(threads);
    Py_END_ALLOW_THREADS;
  }
  return true;
}

}  // namespace fastdiff
