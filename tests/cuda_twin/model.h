// The threads of blocks as fibers, and how they come together.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "../../csrc/cuda/packet.h"
#include "context.h"

namespace fastdiff::cuda {

constexpr int kWarp = 32, kGroup = 128;

[[noreturn]] inline void give_up(const char* why) {
  fprintf(stderr, "the block: %s\n", why);
  exit(3);
}

inline void require_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) give_up("an access that is not aligned");
}

struct Copy {
  void* to;
  const void* from;
  bool there;
};

// d += a b of a warpgroup, as one of its threads has asked for it.
struct Product {
  float* d;
  int wide;
  bool own, bf16;  // own: a is in registers
  uint32_t a[4];
  uint64_t from_a, from_b;
  std::vector<float> before;
};

// An mbarrier.
struct Barrier {
  int arrivals, missing, phase = 0;
};

// Where threads come together. What the last one does there is done for all.
struct Meeting {
  int arrived = 0, round = 0;
  const char* what = nullptr;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  const int* counter = nullptr;  // waits until this is no longer `value`
  int value = 0;
  const void* offer = nullptr;
  int cluster = -1;  // the round of the cluster's barrier that this thread has arrived at and not waited for
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> groups;
  std::vector<Product> products;

  bool may_run() const { return !done && (counter == nullptr || *counter != value); }
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps, groups;
  Meeting all;
  std::map<const uint64_t*, Barrier> barriers;
  std::map<const char*, int> hidden;  // 16 bytes that products do not see before this thread shows them
  std::vector<bool> begun;            // products, by warpgroup
  const char* shared;
  std::function<void(int)> body;
  Context scheduler;
  int current = 0;

  Fiber& me() { return fibers[static_cast<size_t>(current)]; }
  Fiber& lane(int l) { return fibers[static_cast<size_t>(current / kWarp * kWarp + l)]; }

  int group() const { return current / kGroup; }

  void wait_while(const int& counter, int value) {
    me().counter = &counter, me().value = value;
    me().context.leave_for(scheduler);
    me().counter = nullptr;
  }

  template <class F>
  void meet(Meeting& meeting, int size, const char* what, F last) {
    if (meeting.arrived && strcmp(meeting.what, what)) give_up("threads of one group do different things");
    meeting.what = what;
    if (++meeting.arrived < size) return wait_while(meeting.round, meeting.round);
    meeting.arrived = 0;
    last();
    ++meeting.round;
  }

  template <class Offer, class F>
  void meet_warp(const char* what, const Offer& offer, F last) {
    me().offer = &offer;
    meet(warps[static_cast<size_t>(current / kWarp)], kWarp, what, [&] {
      const Offer* offers[kWarp];
      for (int l = 0; l < kWarp; ++l) offers[l] = static_cast<const Offer*>(lane(l).offer);
      last(offers);
    });
  }
};

extern Block* block;  // that runs

// Threads that have yet to begin; again when they are done.
void set_up(Block& of, int threads, size_t stack, const char* shared, std::function<void(int)> body);
// All threads of these blocks, until they are done.
void run_together(std::vector<Block>& blocks, uint32_t lot);

inline float half_at(uint32_t word, int i, bool bf16) {
  float pair[2];
  unpack_halves(word, bf16, pair[0], pair[1]);
  return pair[i];
}

}  // namespace fastdiff::cuda
