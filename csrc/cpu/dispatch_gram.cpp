#include <algorithm>
#include <memory>

#include "gram.h"
#include "isa.h"
#include "parallel.h"

namespace fastdiff::cpu {

namespace {

constexpr int64_t kPartsPerThread = 4;  // less than this and waking a thread costs more than it saves
constexpr int64_t kFew = 64;            // sums of a small call's parts, which need no memory of their own

// The sums of one sample's parts, added up in their order, as a symmetric matrix.
void write(const Gram& g, int64_t sample, const double* partial) {
  const int count = products(g), size = g.vectors + 1;
  double sum[kMaxProducts] = {};
  for (int64_t part = 0; part < parts_per_sample(g); ++part, partial += count) {
    for (int k = 0; k < count; ++k) sum[k] += partial[k];
  }
  double* out = g.out + sample * size * size;
  const double* next = sum;
  for (int i = 0; i < g.vectors; ++i) {
    for (int j = i; j < size; ++j) out[i * size + j] = out[j * size + i] = *next++;
  }
  out[size * size - 1] = static_cast<double>(elements_per_sample(g));
}

}  // namespace

int useful_threads(const Gram& g) { return threads_for(g.size[0] * parts_per_sample(g), kPartsPerThread); }

void gram(const Gram& g, int threads) {
  const int64_t parts = parts_per_sample(g), tasks = g.size[0] * parts, sums = tasks * products(g);
  double few[kFew];
  const std::unique_ptr<double[]> many(sums > kFew ? new double[sums] : nullptr);
  double* const partial = many ? many.get() : few;
  const auto run = kernels().gram;
  parallel(tasks, std::min(threads, useful_threads(g)), [&, run](int64_t first, int64_t last) {
    run(g, partial, first, last);
  });
  for (int64_t sample = 0; sample < g.size[0]; ++sample) write(g, sample, partial + sample * parts * products(g));
}

}  // namespace fastdiff::cpu
