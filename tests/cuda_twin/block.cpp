#include "block.h"

#include <random>

#include "../../csrc/cuda/block.h"
#include "model.h"

namespace fastdiff::cuda {

Block* block;

namespace {

void enter() {
  block->body(block->current);
  block->me().done = true;
  block->me().context.leave_for(block->scheduler);
}

// The threads of a warp that need not wait, if there are any.
bool run_warp(Block& of, int warp) {
  bool ran = false;
  for (int t = warp * kWarp; t < (warp + 1) * kWarp; ++t) {
    if (!of.fibers[static_cast<size_t>(t)].may_run()) continue;
    block = &of, of.current = t, ran = true;
    of.scheduler.leave_for(of.me().context);
  }
  return ran;
}

void check(const Fiber& f) {
  if (!f.done) give_up("all threads wait");
  if (!f.copies.empty() || !f.groups.empty()) give_up("copies that nobody waited for");
  if (!f.products.empty()) give_up("products that nobody finished");
}

}  // namespace

void set_up(Block& of, int threads, size_t stack, const char* shared, std::function<void(int)> body) {
  of.fibers.resize(static_cast<size_t>(threads)), of.warps.resize(static_cast<size_t>(threads / kWarp));
  of.groups.resize(static_cast<size_t>(threads / kGroup)), of.begun.assign(of.groups.size(), false);
  of.barriers.clear(), of.hidden.clear();
  of.body = std::move(body), of.shared = shared;
  for (Fiber& f : of.fibers) {
    if (!f.stack) f.stack.reset(new char[stack]);
    f.done = false;
    f.context.begin(f.stack.get(), stack, enter);
  }
}

void run_together(std::vector<Block>& blocks, uint32_t lot) {
  const size_t warps = blocks.front().warps.size(), count = blocks.size() * warps;
  std::mt19937 draw(lot);
  for (bool running = true; running;) {
    const size_t first = draw() % count;
    running = false;
    for (size_t i = 0; i < count && !running; ++i) {
      const size_t next = (first + i) % count;
      running = run_warp(blocks[next / warps], static_cast<int>(next % warps));
    }
  }
  for (const Block& of : blocks)
    for (const Fiber& f : of.fibers) check(f);
  block = nullptr;
}

void run_block(int threads, const char* shared, uint32_t lot, const std::function<void(int)>& body) {
  std::vector<Block> one(1);
  set_up(one.front(), threads, 1 << 16, shared, body);
  run_together(one, lot);
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

void cp_async_16(void* shared, const void* global, bool there) {
  require_aligned(shared, 16), require_aligned(global, 16);
  memset(shared, 0xff, 16);  // whoever reads it too early gets NaN
  block->me().copies.push_back({shared, global, there});
}

void cp_async_commit() {
  block->me().groups.push_back(std::move(block->me().copies));
  block->me().copies.clear();
}

void cp_async_wait(int pending) {
  auto& groups = block->me().groups;
  for (; groups.size() > static_cast<size_t>(pending); groups.pop_front()) {
    for (const Copy& c : groups.front()) {
      block->hidden[static_cast<const char*>(c.to)] = block->current;
      if (c.there) memcpy(c.to, c.from, 16);
      else memset(c.to, 0, 16);
    }
  }
}

void ldmatrix(uint32_t* to, int count, bool transposed, const void* row) {
  struct Offer {
    uint32_t* to;
    const void* row;
  };
  require_aligned(row, 16);
  block->meet_warp(transposed ? "ldmatrix, transposed" : "ldmatrix", Offer{to, row}, [&](auto& offers) {
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
void multiply(float* c, const uint32_t* a, const uint32_t* b, int depth, bool bf16) {
  struct Offer {
    float* c;
    const uint32_t *a, *b;
  };
  block->meet_warp(depth == 16 ? "mma_m16n8k16" : "mma_m16n8k8", Offer{c, a, b}, [&](auto& offers) {
    float left[16][16], right[8][16];
    for (int l = 0; l < kWarp; ++l) {
      for (int w = 0; w < depth / 4; ++w) {
        float* to = &left[l / 4 + w % 2 * 8][l % 4 * 2 + w / 2 * 8];
        unpack_halves(offers[l]->a[w], bf16, to[0], to[1]);
      }
      for (int w = 0; w < depth / 8; ++w) {
        float* to = &right[l / 4][l % 4 * 2 + w * 8];
        unpack_halves(offers[l]->b[w], bf16, to[0], to[1]);
      }
    }
    for (int l = 0; l < kWarp; ++l) {
      for (int i = 0; i < 4; ++i) {
        const float *row = left[l / 4 + i / 2 * 8], *column = right[l % 4 * 2 + i % 2];
        float sum = 0;
        for (int k = 0; k < depth; ++k) sum += row[k] * column[k];
        offers[l]->c[i] += sum;
      }
    }
  });
}

}  // namespace fastdiff::cuda
