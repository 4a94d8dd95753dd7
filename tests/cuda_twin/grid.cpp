#include "grid.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cuda/team.h"

namespace fastdiff::cuda {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStack = 1 << 16;

[[noreturn]] void give_up(const char* why) {
  fprintf(stderr, "the grid: %s\n", why);
  exit(3);
}

void require_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) give_up("an access that is not aligned");
}

struct Copy {
  void* to;
  const void* from;
  bool there;
};

// Where threads come together. What the last one does there is done for all.
struct Meeting {
  uint32_t arrived = 0, round = 0;
  const char* what = nullptr;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done;
  const uint32_t* counter;  // waits while this is `value`
  uint32_t value, arrival;
  const void* offer;
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> groups;

  bool may_run() const { return !done && (counter == nullptr || *counter != value); }
};

struct Block {
  std::unique_ptr<char[]> shared;
  Meeting all;
  bool begun = false;
};

struct Grid {
  Launch launch;
  const std::function<void(int64_t, int, char*)>* body;
  std::vector<Block> blocks;
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting cluster;
  int64_t first;
  size_t current;
  ucontext_t scheduler;

  Fiber& me() { return fibers[current]; }
  Fiber& lane(size_t l) { return fibers[current / kLanes * kLanes + l]; }
  size_t number() const { return current / static_cast<size_t>(launch.threads); }
  Block& block() { return blocks[number()]; }

  void wait_while(const uint32_t& counter, uint32_t value) {
    me().counter = &counter, me().value = value;
    swapcontext(&me().context, &scheduler);
    me().counter = nullptr;
  }

  template <class F>
  void meet(Meeting& meeting, int size, const char* what, F last) {
    if (meeting.arrived && strcmp(meeting.what, what)) give_up("threads of one group do different things");
    meeting.what = what;
    if (++meeting.arrived < static_cast<uint32_t>(size)) return wait_while(meeting.round, meeting.round);
    meeting.arrived = 0;
    last();
    ++meeting.round;
  }

  bool run_warp(size_t warp) {
    bool ran = false;
    for (current = warp * kLanes; current < (warp + 1) * kLanes; ++current) {
      if (!me().may_run()) continue;
      ran = true;
      swapcontext(&scheduler, &me().context);
    }
    return ran;
  }
};

Grid* grid;

void enter() {
  Block& block = grid->block();
  const size_t bytes = static_cast<size_t>(grid->launch.shared);
  if (!block.begun) memset(block.shared.get(), 0xff, bytes);  // what a peer wrote too early is lost
  block.begun = true;
  const size_t thread = grid->current % static_cast<size_t>(grid->launch.threads);
  (*grid->body)(grid->first + static_cast<int64_t>(grid->number()), static_cast<int>(thread), block.shared.get());
  grid->me().done = true;
}

void begin(Fiber& f) {
  f.done = false, f.counter = nullptr, f.arrival = UINT32_MAX;
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack;
  f.context.uc_link = &grid->scheduler;
  makecontext(&f.context, enter, 0);
}

void run_all(std::mt19937& draw) {
  for (Fiber& f : grid->fibers) begin(f);
  for (Block& b : grid->blocks) {
    b.shared.reset(new char[static_cast<size_t>(grid->launch.shared)]);
    b.begun = false;
  }
  for (bool running = true; running;) {
    const size_t count = grid->warps.size(), start = draw() % count;
    running = false;
    for (size_t i = 0; i < count && !running; ++i) running = grid->run_warp((start + i) % count);
  }
  for (const Fiber& f : grid->fibers) {
    if (!f.done) give_up("all threads wait");
    if (!f.copies.empty() || !f.groups.empty()) give_up("copies that nobody waited for");
  }
}

}  // namespace

void run_grid(const Launch& launch, const std::function<void(int64_t, int, char*)>& body) {
  const size_t resident = static_cast<size_t>(launch.resident), threads = static_cast<size_t>(launch.threads);
  Grid here{launch, &body, {}, {}, {}, {}, 0, 0, {}};
  here.blocks.resize(resident), here.fibers.resize(resident * threads);
  here.warps.resize(resident * threads / kLanes);
  grid = &here;
  std::mt19937 draw(launch.lot);
  for (here.first = 0; here.first < launch.blocks; here.first += launch.resident) run_all(draw);
  grid = nullptr;
}

void sync_block() {
  grid->meet(grid->block().all, grid->launch.threads, "sync_block", [] {});
}

float shuffle_xor(float v, int lanes) {
  struct Offer {
    float given, taken;
    int lanes;
  };
  Offer mine{v, 0, lanes};
  grid->me().offer = &mine;
  grid->meet(grid->warps[grid->current / kLanes], kLanes, "shuffle_xor", [] {
    const auto of = [](size_t l) { return static_cast<Offer*>(const_cast<void*>(grid->lane(l).offer)); };
    for (size_t l = 0; l < kLanes; ++l) of(l)->taken = of(l ^ static_cast<size_t>(of(l)->lanes))->given;
  });
  return mine.taken;
}

void copy16(void* shared, const void* global, bool there) {
  require_aligned(shared, 16), require_aligned(global, 16);
  memset(shared, 0xff, 16);  // whoever reads it too early gets NaN
  grid->me().copies.push_back({shared, global, there});
}

void commit_copies() {
  grid->me().groups.push_back(std::move(grid->me().copies));
  grid->me().copies.clear();
}

void wait_for_copies(int pending) {
  auto& groups = grid->me().groups;
  for (; groups.size() > static_cast<size_t>(pending); groups.pop_front()) {
    for (const Copy& c : groups.front()) {
      if (c.there) memcpy(c.to, c.from, 16);
      else memset(c.to, 0, 16);
    }
  }
}

void arrive_at_cluster() {
  Meeting& all = grid->cluster;
  if (grid->me().arrival != UINT32_MAX) give_up("a thread arrives at the cluster twice");
  grid->me().arrival = all.round;
  if (++all.arrived == grid->fibers.size()) all.arrived = 0, ++all.round;
}

void wait_for_cluster() {
  const uint32_t arrival = grid->me().arrival;
  if (arrival == UINT32_MAX) give_up("a thread waits for the cluster and has not arrived");
  if (grid->cluster.round == arrival) grid->wait_while(grid->cluster.round, arrival);
  grid->me().arrival = UINT32_MAX;
}

void* peer_of(void* shared, int rank) {
  const auto offset = static_cast<char*>(shared) - grid->block().shared.get();
  if (offset < 0 || offset >= grid->launch.shared || rank >= grid->launch.resident) give_up("no such peer");
  return grid->blocks[static_cast<size_t>(rank)].shared.get() + offset;
}

void raise_flag(uint32_t* flag) { *flag = 1; }

void await_flag(const uint32_t* flag) {
  if (*flag == 0) grid->wait_while(*flag, 0);
  if (*flag != 1) give_up("a flag that nobody cleared");
}

}  // namespace fastdiff::cuda
