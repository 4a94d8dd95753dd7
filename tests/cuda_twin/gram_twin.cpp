// Runs gram's kernel code on a model of the device (grid.h), as the launcher would. Cases come on standard input, each
// the struct Gram, the lot that says who goes first, and its buffers (buffers.h). On standard output go a report and the
// buffers as the kernels left them.
#include "../../csrc/cuda/gram_kernels.h"
#include "buffers.h"
#include "grid.h"

#include <cstring>
#include <memory>

namespace fastdiff::cuda {
namespace {

struct Case {
  Gram gram;
  uint32_t lot;
};

struct Report {
  int64_t precision, dense, rounds, parts;
  char text[96];
};

struct OnHost {
  Report* report;
  uint32_t lot;

  template <class T, int N, bool kDense>
  const char* run(const Parts<T>& p) const {
    *report = {sizeof(T), kDense, p.rounds, p.parts, {}};
    run_grid({p.size[0] * p.parts, kGramThreads, int(sizeof(GramShared<T>)), 1, lot},
             [&](int64_t block, int thread, char* shared) { part_thread<T, N, kDense>(p, block, thread, shared); });
    return nullptr;
  }
};

void run_case(Case& c) {
  Gram& g = c.gram;
  std::vector<Buffer> buffers = read_buffers();
  for (Operand& v : g.tensor) relocate(v.data, buffers);
  relocate(g.device_basis, buffers), relocate(g.out, buffers);
  const size_t count = static_cast<size_t>(g.size[0] * products(g) * parts_of(elements_per_sample(g)));
  std::unique_ptr<double[]> partial(new double[count]);
  memset(partial.get(), 0xff, count * sizeof(double));
  Report report{};
  if (const char* text = dispatch(g, partial.get(), OnHost{&report, c.lot})) {
    snprintf(report.text, sizeof report.text, "%s", text);
  } else {
    const Partials p = partials_of(g, partial.get());
    run_grid({g.size[0], kGramThreads, 0, 1, c.lot},
             [&](int64_t block, int thread, char*) { sum_thread(p, block, thread); });
  }
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::cuda::Case c;
  while (fread(&c, sizeof c, 1, stdin) == 1) fastdiff::cuda::run_case(c);
  return 0;
}
