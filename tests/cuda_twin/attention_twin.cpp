// Runs attention's kernel code on the CPU, block by block over the grid that the launcher would ask for. Cases come on
// standard input: the Attention, what its Device has, and the buffers (buffers.h). On standard output go a report and
// the buffers as the kernel left them.
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

template <bool kBf16, int D, int kTiles, bool kMasked>
void name(char* to, Flash<kBf16, D, kTiles, kMasked>) {
  snprintf(to, 64, "flash %d %d%s", D, kTiles, kMasked ? " masked" : "");
}

template <bool kBf16, int D, int kKeys>
void name(char* to, ShortKeys<kBf16, D, kKeys>) {
  snprintf(to, 64, "short %d %d", D, kKeys);
}

template <int D>
void name(char* to, Float32<D>) {
  snprintf(to, 64, "single %d", D);
}

template <bool kBf16, int D>
void name(char* to, Hopper<kBf16, D>) {
  snprintf(to, 64, "hopper %d", D);
}

struct OnHost {
  Report* report;

  template <class Kernel>
  const char* run(const Problem& p, int blocks) const {
    report->queries = Kernel::kQueries, report->blocks = blocks;
    name(report->kernel, Kernel());
    for (int b = 0; b < blocks; ++b) {
      void* memory;
      if (posix_memalign(&memory, 128, Kernel::kShared)) exit(2);
      char* shared = static_cast<char*>(memset(memory, 0xff, Kernel::kShared));
      const auto body = [&](int thread) { Kernel::run(p, shared, b, thread); };
      run_block(Kernel::kThreads, shared, static_cast<uint32_t>(b), body);
      free(memory);
    }
    return nullptr;
  }
};

void run_case(Attention& a) {
  int64_t sent[3];  // multiprocessors, shared memory of a block, whether it is Hopper
  receive(sent, sizeof sent);
  const Device device{sent[2] ? 90 : 80, sent[0], static_cast<int>(sent[1]), 0};
  const std::vector<Buffer> buffers = read_buffers();
  for (Heads* h : {&a.q, &a.k, &a.v, &a.out}) relocate(h->data, buffers);
  Report report{};
  const OnHost launch{&report};
  const char* text = a.dtype == DType::f32   ? prepare_float32(a, launch)
                     : a.dtype == DType::f16 ? prepare_half<false>(a, device, launch)
                                             : prepare_half<true>(a, device, launch);
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
