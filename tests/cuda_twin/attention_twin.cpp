// Runs attention's kernel code on the CPU, block by block over the grid that the launcher would ask for. Cases come on
// standard input: the Attention, the number of multiprocessors, and its buffers (buffers.h). On standard output go a
// report and the buffers as the kernel left them.
#include <cstring>

#include "../../csrc/cuda/attention_launch.h"
#include "block.h"
#include "buffers.h"

namespace fastdiff::cuda {
namespace {

struct Report {
  int64_t queries, blocks;  // of a tile, and of the grid
  char kernel[64], text[96];
};

template <bool kBrain, int D, int kTiles, bool kMasked>
void name(char* to, Flash<kBrain, D, kTiles, kMasked>) {
  snprintf(to, 64, "flash %d %d%s", D, kTiles, kMasked ? " masked" : "");
}

template <bool kBrain, int D, int kKeys>
void name(char* to, Short<kBrain, D, kKeys>) {
  snprintf(to, 64, "short %d %d", D, kKeys);
}

template <int D>
void name(char* to, Single<D>) {
  snprintf(to, 64, "single %d", D);
}

struct OnHost {
  Report* report;

  template <class Kernel>
  const char* run(const Problem& p, int blocks) const {
    report->queries = Kernel::kQueries, report->blocks = blocks;
    name(report->kernel, Kernel());
    for (int b = 0; b < blocks; ++b) {
      char* shared = static_cast<char*>(aligned_alloc(128, (Kernel::kShared + 127) / 128 * 128));
      memset(shared, 0xff, Kernel::kShared);
      run_block(Kernel::kThreads, static_cast<uint32_t>(b), [&](int thread) { Kernel::run(p, shared, b, thread); });
      free(shared);
    }
    return nullptr;
  }
};

void run_case(Attention& a) {
  Machine machine;
  receive(&machine.multiprocessors, sizeof machine.multiprocessors);
  const std::vector<Buffer> buffers = read_buffers();
  for (Heads* h : {&a.q, &a.k, &a.v, &a.out}) relocate(h->data, buffers);
  Report report{};
  const OnHost launch{&report};
  const char* text = a.dtype == DType::f32   ? prepare_single(a, launch)
                     : a.dtype == DType::f16 ? prepare_halves<false>(a, machine, launch)
                                             : prepare_halves<true>(a, machine, launch);
  if (text) snprintf(report.text, sizeof report.text, "%s", text);
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::Attention attention;
  while (fread(&attention, sizeof attention, 1, stdin) == 1) fastdiff::cuda::run_case(attention);
  return 0;
}
