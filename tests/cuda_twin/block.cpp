#include "block.h"

#include <random>

#include "../../csrc/cuda/block.h"
#include "model.h"

namespace fastdiff::cuda {

Block* block;

namespace {

void enter() {
  (*block->body)(block->current);
  block->me().done = true;
}

}  // namespace

void run_block(int threads, const char* shared, uint32_t lot, const std::function<void(int)>& body) {
  Block here;
  here.fibers.resize(static_cast<size_t>(threads)), here.warps.resize(static_cast<size_t>(threads / kWarp));
  here.groups.resize(static_cast<size_t>(threads / kGroup)), here.begun.resize(static_cast<size_t>(threads / kGroup));
  here.body = &body, here.shared = shared;
  block = &here;
  for (Fiber& f : here.fibers) {
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = &here.scheduler;
    makecontext(&f.context, enter, 0);
  }
  std::mt19937 draw(lot);
  for (;;) {
    std::vector<int> ready;
    bool finished = true;
    for (int t = 0; t < threads; ++t) {
      const Fiber& f = here.fibers[static_cast<size_t>(t)];
      finished = finished && f.done;
      if (f.may_run() && (ready.empty() || ready.back() != t / kWarp)) ready.push_back(t / kWarp);
    }
    if (finished) break;
    if (ready.empty()) give_up("all threads wait");
    const int warp = ready[draw() % ready.size()];
    for (int t = warp * kWarp; t < (warp + 1) * kWarp; ++t) {
      if (!here.fibers[static_cast<size_t>(t)].may_run()) continue;
      here.current = t;
      swapcontext(&here.scheduler, &here.me().context);
    }
  }
  for (const Fiber& f : here.fibers) {
    if (!f.copies.empty() || !f.groups.empty()) give_up("copies that nobody waited for");
    if (!f.products.empty()) give_up("products that nobody finished");
  }
  block = nullptr;
}

void sync_block() {
  block->meet(block->all, static_cast<int>(block->fibers.size()), "sync_block", [] {});
}

void sync_warp() { block->meet_warp("sync_warp", 0, [](auto&) {}); }

float shuffle_xor(float v, int lanes) {
  struct Offer {
    float given, *taken;
    int lanes;
  };
  float taken;
  block->meet_warp("shuffle_xor", Offer{v, &taken, lanes}, [](auto& offers) {
    for (int l = 0; l < kWarp; ++l) *offers[l]->taken = offers[l ^ offers[l]->lanes]->given;
  });
  return taken;
}

void copy16(void* shared, const void* global, bool there) {
  require_aligned(shared, 16), require_aligned(global, 16);
  memset(shared, 0xff, 16);  // whoever reads it too early gets NaN
  block->me().copies.push_back({shared, global, there});
}

void commit_copies() {
  block->me().groups.push_back(std::move(block->me().copies));
  block->me().copies.clear();
}

void wait_for_copies(int pending) {
  auto& groups = block->me().groups;
  for (; groups.size() > static_cast<size_t>(pending); groups.pop_front()) {
    for (const Copy& c : groups.front()) {
      block->hidden[static_cast<const char*>(c.to)] = block->current;
      if (c.there) memcpy(c.to, c.from, 16);
      else memset(c.to, 0, 16);
    }
  }
}

void load_matrices(uint32_t* to, int count, bool transposed, const void* row) {
  struct Offer {
    uint32_t* to;
    const void* row;
  };
  require_aligned(row, 16);
  block->meet_warp(transposed ? "load_matrices, transposed" : "load_matrices", Offer{to, row}, [&](auto& offers) {
    for (int i = 0; i < count; ++i) {
      uint16_t matrix[8][8];
      for (int r = 0; r < 8; ++r) memcpy(matrix[r], offers[8 * i + r]->row, 16);
      for (int l = 0; l < kWarp; ++l) {
        const int r = l / 4, c = l % 4 * 2;
        const uint32_t low = transposed ? matrix[c][r] : matrix[r][c];
        const uint32_t high = transposed ? matrix[c + 1][r] : matrix[r][c + 1];
        offers[l]->to[i] = low | high << 16;
      }
    }
  });
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8" with elements of 16 bits.
void multiply(float* c, const uint32_t* a, const uint32_t* b, int depth, bool brain) {
  struct Offer {
    float* c;
    const uint32_t *a, *b;
  };
  block->meet_warp(depth == 16 ? "multiply16" : "multiply8", Offer{c, a, b}, [&](auto& offers) {
    for (int l = 0; l < kWarp; ++l) {
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < depth; ++k) {
          const auto* left = offers[row % 8 * 4 + k % 8 / 2];
          const auto* right = offers[column * 4 + k % 8 / 2];
          sum += half_at(left->a[row / 8 + k / 8 * 2], k % 2, brain) * half_at(right->b[k / 8], k % 2, brain);
        }
        offers[l]->c[i] += sum;
      }
    }
  });
}

}  // namespace fastdiff::cuda
