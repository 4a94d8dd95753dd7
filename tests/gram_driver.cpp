// Runs one instruction set's gram without Python, under sanitizers: every tensor sits in a heap block of just its size,
// and every sum is checked against the definition in double. Prints "ok" or stops with a message.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../csrc/cpu/gram.cpp"

namespace {

using namespace fastdiff;

constexpr int64_t kBatch = 2;
constexpr int kTensors = 3;

// Two dimensions of a sample, with a gap behind every row where `gap` is not 0.
template <class T>
struct Values {
  std::unique_ptr<T[]> data;
  Operand operand;

  Values(DType dtype, int64_t rows, int64_t columns, int64_t gap, float phase)
      : data(new T[kBatch * rows * (columns + gap)]),
        operand{data.get(), dtype, {rows * (columns + gap), columns + gap, 1}} {
    for (int64_t k = 0; k < kBatch * rows * (columns + gap); ++k) {
      cpu::narrow(std::sin(0.37f * static_cast<float>(k) + phase), data[k]);
    }
  }

  double at(int64_t sample, int64_t row, int64_t column) const {
    return cpu::widen(data[sample * operand.stride[0] + row * operand.stride[1] + column]);
  }
};

template <class T>
void check(DType dtype, int vectors, int64_t rows, int64_t columns, int64_t gap, double tolerance) {
  const double basis[kMaxVectors][kMaxTensors] = {{1, -1}, {0, 0, 1}, {0.5, 0, -2}, {0.1, 0.2, 0.3}};
  std::vector<Values<T>> tensors;
  Gram g{};
  g.dims = 3, g.size[0] = kBatch, g.size[1] = rows, g.size[2] = columns;
  g.tensors = kTensors, g.vectors = vectors, g.wide = dtype == DType::f64;
  for (int j = 0; j < kTensors; ++j) {
    tensors.emplace_back(dtype, rows, columns, gap, static_cast<float>(j));
    g.tensor[j] = tensors.back().operand;
    for (int i = 0; i < vectors; ++i) g.basis[i][j] = basis[i][j];
  }
  const int64_t parts = cpu::parts_per_sample(g), count = products(g);
  std::vector<double> partial(kBatch * parts * count, NAN);
  cpu::FASTDIFF_ISA::gram(g, partial.data(), 0, 1);  // in pieces, as threads take them
  cpu::FASTDIFF_ISA::gram(g, partial.data(), 1, kBatch * parts);
  for (int64_t sample = 0; sample < kBatch; ++sample) {
    std::vector<double> right(count, 0);
    for (int64_t e = 0; e < rows * columns; ++e) {
      double v[kMaxVectors + 1];
      v[vectors] = 1;
      for (int i = 0; i < vectors; ++i) {
        v[i] = 0;
        for (int j = 0; j < kTensors; ++j) v[i] += basis[i][j] * tensors[j].at(sample, e / columns, e % columns);
      }
      int k = 0;
      for (int i = 0; i < vectors; ++i) {
        for (int j = i; j <= vectors; ++j) right[k++] += v[i] * v[j];
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      double found = 0;
      for (int64_t part = 0; part < parts; ++part) found += partial[(sample * parts + part) * count + k];
      if (std::fabs(found - right[k]) <= tolerance * static_cast<double>(rows * columns)) continue;
      std::printf("product %lld of %d vectors over %lld x %lld: %g, not %g\n", (long long)k, vectors, (long long)rows,
                  (long long)columns, found, right[k]);
      std::exit(1);
    }
  }
}

}  // namespace

int main() {
  for (int vectors = 1; vectors <= kMaxVectors; ++vectors) {
    for (const auto [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 11}, {7, 37}, {5, 103}, {33, 512}}) {
      for (int64_t gap : {0, 3}) {
        check<float>(DType::f32, vectors, rows, columns, gap, 1e-5);
        check<double>(DType::f64, vectors, rows, columns, gap, 1e-13);
        check<cpu::Float16>(DType::f16, vectors, rows, columns, gap, 1e-5);
        check<cpu::BFloat16>(DType::bf16, vectors, rows, columns, gap, 1e-5);
      }
    }
  }
  std::puts("ok");
}
