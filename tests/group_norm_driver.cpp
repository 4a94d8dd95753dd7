// Runs one instruction set's group_norm without Python, under sanitizers: every operand sits in a heap block of just
// its size, and every element is checked against the definition in double. Prints "ok" or stops with a message.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../csrc/cpu/group_norm.cpp"

namespace {

using namespace fastdiff;

struct Shape {
  int64_t batch, channels, positions, groups;
};

std::unique_ptr<float[]> wave(int64_t count, float step) {
  std::unique_ptr<float[]> values(new float[count]);
  for (int64_t i = 0; i < count; ++i) values[i] = std::sin(step * static_cast<float>(i + 1));
  return values;
}

void run(const GroupNorm& n) {
  if (const int64_t together = n.channels_last ? cpu::groups_together(n) : 1; together > 0) {
    cpu::FASTDIFF_ISA::group_norm(n, 0, 1);  // in pieces, as threads take them
    cpu::FASTDIFF_ISA::group_norm(n, 1, n.batch * n.groups / together);
    return;
  }
  const int64_t rows = 19, count = (n.positions + rows - 1) / rows;
  std::vector<cpu::Moments> moments(n.batch * count * n.groups);
  std::vector<float> affine(3 * n.batch * n.channels);
  const cpu::Slices slices{rows, count, moments.data(), affine.data()};
  cpu::FASTDIFF_ISA::group_norm_moments(n, slices, 0, 1);
  cpu::FASTDIFF_ISA::group_norm_moments(n, slices, 1, n.batch * count);
  cpu::FASTDIFF_ISA::group_norm_affine(n, slices, 0, n.batch * n.groups);
  cpu::FASTDIFF_ISA::group_norm_rows(n, slices, 0, 1);
  cpu::FASTDIFF_ISA::group_norm_rows(n, slices, 1, n.batch * count);
}

template <class T>
void check(DType dtype, double tolerance, const Shape& s, bool channels_last, bool modulated, Activation act) {
  const int64_t count = s.batch * s.channels * s.positions, size = s.channels / s.groups;
  std::unique_ptr<T[]> x(new T[count]), y(new T[count]);
  for (int64_t i = 0; i < count; ++i) cpu::narrow(3 + std::sin(0.37f * static_cast<float>(i)), x[i]);
  for (int64_t i = 0; i < count; ++i) cpu::narrow(NAN, y[i]);
  const auto weight = wave(s.channels, 1.1f), bias = wave(s.channels, 2.3f);
  const int64_t pairs = s.batch * s.channels;
  const auto add = wave(pairs, 0.7f), scale = wave(pairs, 1.9f), shift = wave(pairs, 0.3f);
  const auto values = [&](const float* data, bool there, int64_t row) {
    return ChannelValues{there ? data : nullptr, DType::f32, row};
  };
  GroupNorm n{x.get(), y.get(), dtype, s.batch, s.channels, s.positions, s.groups, channels_last, 1e-5f,
              values(weight.get(), modulated, 0), values(bias.get(), true, 0),
              values(add.get(), modulated, s.channels), values(scale.get(), modulated, s.channels),
              values(shift.get(), modulated, s.channels), act};
  run(n);
  const auto at = [&](int64_t b, int64_t c, int64_t p) {
    return channels_last ? (b * s.positions + p) * s.channels + c : (b * s.channels + c) * s.positions + p;
  };
  const auto input = [&](int64_t b, int64_t c, int64_t p) {
    return cpu::widen(x[at(b, c, p)]) + static_cast<double>(modulated ? add[b * s.channels + c] : 0);
  };
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t first = c / size * size;
      double mean = 0, variance = 0;
      const double elements = static_cast<double>(size * s.positions);
      for (int64_t k = first; k < first + size; ++k) {
        for (int64_t p = 0; p < s.positions; ++p) mean += input(b, k, p) / elements;
      }
      for (int64_t k = first; k < first + size; ++k) {
        for (int64_t p = 0; p < s.positions; ++p) variance += std::pow(input(b, k, p) - mean, 2) / elements;
      }
      for (int64_t p = 0; p < s.positions; ++p) {
        double right = (input(b, c, p) - mean) / std::sqrt(variance + 1e-5) * (modulated ? weight[c] : 1) + bias[c];
        if (modulated) right = right * (1.0 + scale[b * s.channels + c]) + shift[b * s.channels + c];
        if (act == Activation::silu) right /= 1 + std::exp(-right);
        if (!(std::fabs(cpu::widen(y[at(b, c, p)]) - right) < tolerance)) {
          std::printf("wrong with %lld channels, %lld positions, channels_last %d at (%lld, %lld, %lld)\n",
                      (long long)s.channels, (long long)s.positions, channels_last, (long long)b, (long long)c,
                      (long long)p);
          std::exit(1);
        }
      }
    }
  }
}

}  // namespace

int main() {
  for (const Shape& s : {Shape{2, 6, 37, 3}, {1, 40, 64, 4}, {2, 35, 23, 5}, {1, 4, 2300, 2}, {2, 16, 1, 2},
                         {2, 320, 7, 4}, {4, 1024, 3, 8}}) {
    for (bool channels_last : {false, true}) {
      for (bool modulated : {false, true}) {
        const Activation act = modulated ? Activation::silu : Activation::none;
        check<float>(DType::f32, 5e-5, s, channels_last, modulated, act);
        check<cpu::Float16>(DType::f16, 2e-2, s, channels_last, modulated, act);
        check<cpu::BFloat16>(DType::bf16, 1e-1, s, channels_last, modulated, act);
      }
    }
  }
  std::puts("ok");
}
