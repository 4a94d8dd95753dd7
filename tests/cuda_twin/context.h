// A place where execution can go on: a stack and the registers that calls preserve. On x86-64 a switch is a few
// instructions; ucontext, which serves elsewhere, asks the system for the signal mask each time, and that takes longer
// than a thread of the model runs.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)

// Pushes the registers, leaves the stack pointer in *from, and goes on where `to` was left.
extern "C" void fastdiff_switch(void** from, void* to);
asm(R"(
.text
fastdiff_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

namespace fastdiff::cuda {

class Context {
 public:
  // The first switch to it calls entry, which must not return.
  void begin(char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t{15});
    *--top = nullptr;  // where entry would return to
    *--top = reinterpret_cast<void*>(entry);
    for (int preserved = 0; preserved < 6; ++preserved) *--top = nullptr;
    at_ = top;
  }

  void leave_for(Context& other) { fastdiff_switch(&at_, other.at_); }

 private:
  void* at_ = nullptr;
};

}  // namespace fastdiff::cuda

#else
#include <ucontext.h>

namespace fastdiff::cuda {

class Context {
 public:
  void begin(char* stack, size_t size, void (*entry)()) {
    getcontext(&at_);
    at_.uc_stack.ss_sp = stack, at_.uc_stack.ss_size = size;
    makecontext(&at_, entry, 0);
  }

  void leave_for(Context& other) { swapcontext(&at_, &other.at_); }

 private:
  ucontext_t at_;
};

}  // namespace fastdiff::cuda

#endif
