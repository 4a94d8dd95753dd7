// Working memory. Internal linkage: see kernels.h.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastdiff::cpu {
namespace {

// Memory of a thread's own that is kept from call to call.
class Scratch {
 public:
  // Room for `count` floats in all, cut up by take().
  void reserve(int64_t count) {
    next_ = 0;
    if (count <= capacity_) return;
    memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64})));
    capacity_ = count;
  }

  float* take(int64_t count) {
    float* taken = memory_.get() + next_;
    next_ += count;
    return taken;
  }

 private:
  struct Delete {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };

  std::unique_ptr<float, Delete> memory_;
  int64_t capacity_ = 0, next_ = 0;
};

}  // namespace
}  // namespace fastdiff::cpu
