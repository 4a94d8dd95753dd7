// Runs one instruction set's solver_step without Python, under sanitizers: every operand sits in a heap block of just
// its size, and every element is checked against the definition in double. Prints "ok" or stops with a message.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../csrc/cpu/solver_step.cpp"

namespace {

using namespace fastdiff;

constexpr int64_t kBatch = 2;

[[noreturn]] void fail(const char* what, int64_t at) {
  std::printf("%s at %lld\n", what, static_cast<long long>(at));
  std::exit(1);
}

double word_normal(uint64_t seed, uint32_t noise, uint64_t element) {
  const Words words = philox(seed, element / 4, noise);
  const int pair = element % 4 / 2 * 2;
  const double angle = words.r[pair + 1] * (2 * 3.14159265358979323846 / 4294967296.0);
  const double r = std::sqrt(-2 * std::log(static_cast<double>(radius_uniform(words.r[pair]))));
  return r * (element % 2 ? std::sin(angle) : std::cos(angle));
}

struct Buffer {
  std::unique_ptr<float[]> data;
  Operand operand;

  Buffer(int64_t n, float scale) : data(new float[kBatch * n]), operand{data.get(), DType::f32, {n, 1}} {
    for (int64_t i = 0; i < kBatch * n; ++i) data[i] = scale * std::sin(static_cast<float>(i) + scale);
  }
};

void check_size(int64_t n) {
  const int64_t seeds[kBatch] = {-5, int64_t{1} << 40};
  Buffer x(n, 1), base(n, 2), m(n, 3), h(n, 4), out_x(n, NAN), out_base(n, NAN), out_d(n, NAN);
  SolverStep s{};
  s.row.p_x = 0.5, s.row.p_m = -0.25, s.row.clamp = 0.75, s.row.guidance = 1, s.row.c_in = 1;
  s.row.a_base = 0.1, s.row.a_x = 0.2, s.row.A[0] = 0.3, s.row.A[1] = 0.4, s.row.xi_a[0] = 0.5;
  s.row.b_x = 0.6, s.row.B[0] = 0.7, s.row.xi_b[1] = 0.8, s.row.noise[0] = 9, s.row.noise[1] = 4294967295.0;
  s.dims = 2, s.size[0] = kBatch, s.size[1] = n, s.seeds = seeds;
  s.x = x.operand, s.base = base.operand, s.m = m.operand, s.history[0] = h.operand;
  s.out_x = out_x.operand, s.out_base = out_base.operand, s.out_d = out_d.operand;
  cpu::FASTDIFF_ISA::solver_step(s, 0, cpu::blocks(s));
  for (int64_t i = 0; i < kBatch * n; ++i) {
    const uint64_t seed = static_cast<uint64_t>(seeds[i / n]), element = static_cast<uint64_t>(i % n);
    const double d = std::fmin(std::fmax(0.5 * x.data[i] - 0.25 * m.data[i], -0.75), 0.75);
    const double a = 0.1 * base.data[i] + 0.2 * x.data[i] + 0.3 * d + 0.4 * h.data[i];
    const double b = 0.6 * x.data[i] + 0.7 * d + 0.8 * word_normal(seed, 4294967295u, element);
    if (!(std::fabs(out_d.data[i] - d) < 2e-6)) fail("D is wrong", i);
    if (!(std::fabs(out_x.data[i] - a - 0.5 * word_normal(seed, 9, element)) < 5e-6)) fail("x' is wrong", i);
    if (!(std::fabs(out_base.data[i] - b) < 5e-6)) fail("base' is wrong", i);
  }
}

// Three sets of weights of every operand, in blocks of one sample each.
void check_weights(int64_t n) {
  Buffer x(n, 1), m(n, 2), uncond(n, 3), second(n, 4), third(n, 5), state(n, 6);
  Buffer out_x(n, NAN), out_d(n, NAN), out_state(n, NAN);
  double weights[kBatch * kMaxSets * kColumns];
  for (int k = 0; k < kBatch * kMaxSets * kColumns; ++k) weights[k] = k % 5 ? 0.1 * k - 1 : 0;
  SolverStep s{};
  s.row.p_x = 0.5, s.row.p_m = -0.25, s.row.clamp = INFINITY, s.row.a_x = 0.2, s.row.A[0] = 0.3;
  s.dims = 2, s.size[0] = kBatch, s.size[1] = n, s.weights = weights, s.sets = kMaxSets;
  s.x = x.operand, s.m = m.operand, s.m_uncond = uncond.operand, s.state = state.operand;
  s.others[0] = second.operand, s.others[1] = third.operand;
  s.out_x = out_x.operand, s.out_d = out_d.operand, s.out_state = out_state.operand;
  cpu::FASTDIFF_ISA::solver_step(s, 0, cpu::blocks(s));
  for (int64_t i = 0; i < kBatch * n; ++i) {
    double y[kMaxSets];
    for (int set = 0; set < kMaxSets; ++set) {
      const double *w = weights + (i / n * kMaxSets + set) * kColumns, u = uncond.data[i];
      y[set] = w[kWeightM] * (m.data[i] - u) + w[kWeightUncond] * u + w[kWeightSecond] * (second.data[i] - u) +
               w[kWeightThird] * (third.data[i] - u) + w[kWeightX] * x.data[i] + w[kWeightState] * state.data[i];
    }
    const double a = 0.2 * x.data[i] + 0.3 * (0.5 * x.data[i] - 0.25 * y[0]);
    if (!(std::fabs(out_x.data[i] - a) < 5e-5)) fail("x' of weights is wrong", i);
    if (!(std::fabs(out_d.data[i] - (0.5 * x.data[i] - 0.25 * y[1])) < 5e-5)) fail("D of weights is wrong", i);
    if (!(std::fabs(out_state.data[i] - y[2]) < 5e-5)) fail("the state is wrong", i);
  }
}

// The last rows of a sample of 2^35 elements: every row is the same memory, the noise counts on beyond 2^32 blocks.
void check_large_index() {
  constexpr int64_t kRow = 1024, kRows = int64_t{1} << 25;
  std::vector<float> out(kRow), zero(kRow);
  const int64_t seed = 77;
  SolverStep s{};
  s.row.clamp = INFINITY, s.row.a_x = 1, s.row.xi_a[0] = 1, s.row.noise[0] = 3;
  s.dims = 3, s.size[0] = 1, s.size[1] = kRows, s.size[2] = kRow, s.seeds = &seed;
  s.x = {zero.data(), DType::f32, {0, 0, 1}};
  s.out_x = {out.data(), DType::f32, {0, 0, 1}};
  for (int64_t row : {(int64_t{1} << 22) - 1, int64_t{1} << 22, (int64_t{1} << 24) + 5, kRows - 1}) {
    cpu::FASTDIFF_ISA::solver_step(s, row, row + 1);
    for (int64_t i = 0; i < kRow; ++i) {
      const double right = word_normal(77, 3, static_cast<uint64_t>(row * kRow + i));
      if (!(std::fabs(out[i] - right) < 5e-6)) fail("noise is wrong", row * kRow + i);
    }
  }
}

}  // namespace

int main() {
  for (int64_t n = 1; n < 70; ++n) check_size(n);
  for (int64_t n : {127, 128, 129, 1023, 1024, 1025, 1029, 2048, 3001}) check_size(n);
  for (int64_t n : {1, 2, 7, 16, 33, 1023, 1024, 1025, 3001}) check_weights(n);
  check_large_index();
  std::puts("ok");
}
