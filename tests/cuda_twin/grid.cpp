#include "grid.h"

#include "../../csrc/cuda/team.h"
#include "model.h"

namespace fastdiff::cuda {
namespace {

constexpr size_t kStack = 1 << 16;  // of a thread; many run at once

struct Grid {
  Launch launch;
  std::vector<Block> blocks;
  std::vector<std::unique_ptr<char[]>> shared;
  std::vector<bool> begun;
  Meeting cluster;
};

Grid* grid;

}  // namespace

void run_grid(const Launch& launch, const std::function<void(int64_t, int, char*)>& body) {
  const size_t count = static_cast<size_t>(launch.resident), bytes = static_cast<size_t>(launch.shared);
  Grid here{launch, std::vector<Block>(count), {}, {}, {}};
  here.shared.resize(count);
  grid = &here;
  for (int64_t first = 0; first < launch.blocks; first += launch.resident) {
    here.begun.assign(count, false);
    for (size_t b = 0; b < count; ++b) {
      here.shared[b].reset(new char[bytes]);
      set_up(here.blocks[b], launch.threads, kStack, here.shared[b].get(), [&body, first, b, bytes](int thread) {
        char* shared = grid->shared[b].get();
        if (!grid->begun[b]) memset(shared, 0xff, bytes);  // what a peer wrote too early is lost
        grid->begun[b] = true;
        body(first + static_cast<int64_t>(b), thread, shared);
      });
    }
    run_together(here.blocks, launch.lot + static_cast<uint32_t>(first));
  }
  grid = nullptr;
}

void cluster_arrive() {
  Meeting& all = grid->cluster;
  if (block->me().cluster != -1) give_up("a thread arrives at the cluster twice");
  block->me().cluster = all.round;
  if (++all.arrived == grid->launch.resident * grid->launch.threads) all.arrived = 0, ++all.round;
}

void cluster_wait() {
  const int arrival = block->me().cluster;
  if (arrival == -1) give_up("a thread waits for the cluster and has not arrived");
  if (grid->cluster.round == arrival) block->wait_while(grid->cluster.round, arrival);
  block->me().cluster = -1;
}

void* peer_of(void* shared, int rank) {
  const auto offset = static_cast<char*>(shared) - block->shared;
  if (offset < 0 || offset >= grid->launch.shared || rank >= grid->launch.resident) give_up("no such peer");
  return grid->shared[static_cast<size_t>(rank)].get() + offset;
}

void raise_flag(uint32_t* flag) { *flag = 1; }

void wait_flag(const uint32_t* flag) {
  const int& raised = *reinterpret_cast<const int*>(flag);
  if (raised == 0) block->wait_while(raised, 0);
  if (raised != 1) give_up("a flag that nobody cleared");
}

}  // namespace fastdiff::cuda
