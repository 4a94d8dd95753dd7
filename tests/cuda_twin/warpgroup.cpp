// The model's warpgroups: products are done no earlier than they are waited for, and their registers hold NaN until
// then.
#include "../../csrc/cuda/warpgroup.h"

#include <cmath>

#include "model.h"

namespace fastdiff::cuda {
namespace {

constexpr uint32_t kBase = 1024;  // shared memory does not begin at address 0

// PTX ISA, "Matrix Descriptor Format", without swizzling.
struct Cores {
  uint32_t at, leading, stride;

  explicit Cores(uint64_t d)
      : at(static_cast<uint32_t>(d & 0x3fff) << 4),
        leading(static_cast<uint32_t>(d >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3fff) << 4) {
    if (d >> 46) give_up("a descriptor of a swizzled layout");
  }

  // Element (i, k), k along the inner dimension of the product; `inner`: the dimension contiguous within cores.
  uint16_t operator()(int i, int k, bool inner) const {
    const int core = inner ? i % 8 * 16 + k % 8 * 2 : k % 8 * 16 + i % 8 * 2;
    const char* from = block->shared + (at - kBase + static_cast<uint32_t>(k / 8) * leading +
                                        static_cast<uint32_t>(i / 8) * stride + static_cast<uint32_t>(core));
    const char* chunk = from - core % 16;
    if (block->hidden.count(chunk)) give_up("a product reads what it was not shown");
    uint16_t v;
    memcpy(&v, from, 2);
    return v;
  }
};

Fiber& thread_of(int group, int t) { return block->fibers[static_cast<size_t>(group * kGroup + t)]; }

void ask(float* d, int wide, const uint32_t* a, uint64_t from_a, uint64_t b, bool bf16) {
  if (!block->begun[static_cast<size_t>(block->group())]) give_up("a product without wgmma_begin");
  Product product{d, wide, a != nullptr, bf16, {}, from_a, b, std::vector<float>(d, d + 4 * wide)};
  if (a) std::copy(a, a + 4, product.a);
  block->me().products.push_back(product);
  std::fill(d, d + 4 * wide, NAN);
}

// PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16".
void perform(int group, size_t index) {
  const Product first = thread_of(group, 0).products[index];
  const Cores from_b(first.from_b), from_a(first.from_a);
  float a[64][16];
  std::vector<float> b(static_cast<size_t>(16 * 8 * first.wide));
  for (int row = 0; row < 64; ++row) {
    for (int k = 0; k < 16; ++k) {
      const Product& holder = thread_of(group, row / 16 * 32 + row % 8 * 4 + k % 8 / 2).products[index];
      const uint32_t word = first.own ? holder.a[row / 8 % 2 + k / 8 * 2] : from_a(row, k, true);
      a[row][k] = half_at(word, first.own ? k % 2 : 0, first.bf16);
    }
  }
  for (int n = 0; n < 8 * first.wide; ++n) {
    for (int k = 0; k < 16; ++k) b[static_cast<size_t>(n * 16 + k)] = half_at(from_b(n, k, !first.own), 0, first.bf16);
  }
  for (int t = 0; t < kGroup; ++t) {
    const Product& product = thread_of(group, t).products[index];
    if (product.from_b != first.from_b || product.from_a != first.from_a) give_up("threads that disagree on a product");
    for (int i = 0; i < 4 * first.wide; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[static_cast<size_t>(column * 16 + k)];
      product.d[i] += sum;
    }
  }
}

}  // namespace

uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(static_cast<const char*>(shared) - block->shared) + kBase;
}

void mbarrier_init(uint64_t* barrier, int arrivals) {
  require_aligned(barrier, 8);
  *barrier = 0;
  block->barriers[barrier] = {arrivals, arrivals};
}

void mbarrier_arrive(uint64_t* barrier) {
  Barrier& b = block->barriers.at(barrier);
  if (--b.missing) return;
  b.missing = b.arrivals;
  ++b.phase;
}

void mbarrier_wait(uint64_t* barrier, int parity) {
  const Barrier& b = block->barriers.at(barrier);
  if (b.phase % 2 == parity) block->wait_while(b.phase, b.phase);
}

void fence_async_proxy() {
  auto& hidden = block->hidden;
  for (auto it = hidden.begin(); it != hidden.end();) it = it->second == block->current ? hidden.erase(it) : ++it;
}

void sync_warpgroup(int) {
  block->meet(block->groups[static_cast<size_t>(block->group())], kGroup, "sync_warpgroup", [] {});
}

void wgmma_begin() {
  const int group = block->group();
  block->meet(block->groups[static_cast<size_t>(group)], kGroup, "wgmma_begin",
              [=] { block->begun[static_cast<size_t>(group)] = true; });
}

void wgmma_finish() {
  const int group = block->group();
  block->meet(block->groups[static_cast<size_t>(group)], kGroup, "wgmma_finish", [=] {
    const size_t count = thread_of(group, 0).products.size();
    for (int t = 0; t < kGroup; ++t) {
      auto& products = thread_of(group, t).products;
      if (products.size() != count) give_up("threads that disagree on the number of products");
      for (auto p = products.rbegin(); p != products.rend(); ++p) std::copy(p->before.begin(), p->before.end(), p->d);
    }
    for (size_t i = 0; i < count; ++i) perform(group, i);
    for (int t = 0; t < kGroup; ++t) thread_of(group, t).products.clear();
    block->begun[static_cast<size_t>(group)] = false;
  });
}

void wgmma_shared(float* d, uint64_t a, uint64_t b, bool bf16) { ask(d, 16, nullptr, a, b, bf16); }

void wgmma_registers(float* d, int wide, const uint32_t* a, uint64_t b, bool bf16) { ask(d, wide, a, 0, b, bf16); }

}  // namespace fastdiff::cuda
