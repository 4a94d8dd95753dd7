// Runs one instruction set's attention without Python, under sanitizers: every operand sits in a heap block of just its
// size, and every element is checked against the definition in double. Prints "ok" or stops with a message.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../csrc/cpu/attention.cpp"

namespace {

using namespace fastdiff;

[[noreturn]] void fail(long long queries, long long keys, long long size, long long i, long long d) {
  std::printf("wrong with %lld queries, %lld keys, size %lld at (%lld, %lld)\n", queries, keys, size, i, d);
  std::exit(1);
}

// [2, rows, heads, size] in memory, seen as [2, heads, rows, size].
template <class T>
struct Operand {
  int64_t heads, size;
  std::unique_ptr<T[]> data;
  Heads view;

  Operand(int64_t heads, int64_t rows, int64_t size, float seed)
      : heads(heads), size(size), data(new T[2 * rows * heads * size]) {
    const int64_t count = 2 * rows * heads * size;
    for (int64_t i = 0; i < count; ++i) cpu::narrow(std::sin(seed * static_cast<float>(i + 1)), data[i]);
    view = {data.get(), rows * heads * size, size, heads * size};
  }

  double at(int64_t batch, int64_t head, int64_t row, int64_t d) const {
    return cpu::widen(data[batch * view.batch_stride + head * view.head_stride + row * view.row_stride + d]);
  }
};

template <class T>
void check(DType dtype, double tolerance, int64_t queries, int64_t keys, int64_t size) {
  constexpr int64_t kHeads = 2;
  const Operand<T> q(kHeads, queries, size, 1.1f), k(kHeads, keys, size, 2.3f), v(kHeads, keys, size, 0.7f);
  const Operand<T> out(kHeads, queries, size, NAN);
  const Attention a{q.view, k.view, v.view, out.view, dtype, 2, kHeads, queries, keys, size, 0.4f};
  for (int64_t rows : {cpu::kMinRows, cpu::kMaxRows}) {
    const int64_t blocks = (queries + rows - 1) / rows;
    cpu::FASTDIFF_ISA::attention(a, rows, 0, 2);  // in pieces, as threads take them
    cpu::FASTDIFF_ISA::attention(a, rows, 2, 2 * kHeads * blocks);
  }
  std::vector<double> weights(keys);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < keys; ++j) {
          double logit = 0;
          for (int64_t d = 0; d < size; ++d) logit += q.at(b, h, i, d) * k.at(b, h, j, d);
          sum += weights[j] = std::exp(0.4 * logit);
        }
        for (int64_t d = 0; d < size; ++d) {
          double right = 0;
          for (int64_t j = 0; j < keys; ++j) right += weights[j] / sum * v.at(b, h, j, d);
          if (!(std::fabs(out.at(b, h, i, d) - right) < tolerance)) {
            fail(queries, keys, size, i, d);
          }
        }
      }
    }
  }
}

void check_all(int64_t queries, int64_t keys, int64_t size) {
  check<float>(DType::f32, 5e-6, queries, keys, size);
  check<cpu::Float16>(DType::f16, 2e-3, queries, keys, size);
  check<cpu::BFloat16>(DType::bf16, 1.6e-2, queries, keys, size);
}

}  // namespace

int main() {
  for (int64_t size : {1, 7, 40, 161}) {
    for (int64_t keys : {1, 77, 129}) {
      for (int64_t queries : {17, 67}) check_all(queries, keys, size);
    }
  }
  check_all(1, 5, 72);
  check_all(257, 6, 8);
  std::puts("ok");
}
