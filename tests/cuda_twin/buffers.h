// Memory that a test sends and gets back: on standard input the number of buffers, then each one's size and bytes. A
// pointer comes as (buffer << 32) + byte offset, with buffers counted from 1.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace fastdiff::cuda {

// Each buffer is an allocation of its own, so that the sanitizer sees its end.
struct Buffer {
  int64_t size;
  char* memory;
};

inline void receive(void* to, size_t size) {
  if (size && fread(to, size, 1, stdin) != 1) exit(2);
}

inline std::vector<Buffer> read_buffers() {
  int64_t count;
  receive(&count, sizeof count);
  std::vector<Buffer> buffers(static_cast<size_t>(count));
  for (Buffer& b : buffers) {
    receive(&b.size, sizeof b.size);
    b.memory = static_cast<char*>(malloc(static_cast<size_t>(b.size)));
    receive(b.memory, static_cast<size_t>(b.size));
  }
  return buffers;
}

inline void write_buffers(const std::vector<Buffer>& buffers) {
  for (const Buffer& b : buffers) {
    fwrite(b.memory, 1, static_cast<size_t>(b.size), stdout);
    free(b.memory);
  }
}

template <class P>
void relocate(P& pointer, const std::vector<Buffer>& buffers) {
  const uintptr_t code = reinterpret_cast<uintptr_t>(pointer);
  if (!code) return;
  const Buffer& b = buffers[(code >> 32) - 1];
  pointer = reinterpret_cast<P>(b.memory + (code & 0xffffffffu));
}

}  // namespace fastdiff::cuda
