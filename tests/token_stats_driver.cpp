// Runs one instruction set's token_stats without Python, under sanitizers: logits sit in a heap block of just their
// size, and the results are checked against the definition in double. Prints "ok" or stops with a message.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../csrc/cpu/token_filter.cpp"
#include "../csrc/cpu/token_stats.cpp"

namespace {

using namespace fastdiff;

constexpr int64_t kBatch = 2, kLength = 2, kRows = kBatch * kLength;

[[noreturn]] void stop(const char* what, int64_t size, double found, double right) {
  std::printf("%s of %lld tokens: %g, not %g\n", what, (long long)size, found, right);
  std::exit(1);
}

void require_near(const char* what, int64_t size, double found, double right) {
  if (!(std::fabs(found - right) <= 1e-5 * (1 + std::fabs(right)))) stop(what, size, found, right);
}

struct Case {
  int64_t size, gap, top_k;
  double temperature, top_p;
  bool guided, changed;
};

template <class T>
std::unique_ptr<T[]> logits_of(const Case& c, float phase) {
  std::unique_ptr<T[]> values(new T[kRows * (c.size + c.gap) - c.gap]);
  for (int64_t k = 0; k < kRows * (c.size + c.gap) - c.gap; ++k) {
    cpu::narrow(5 * std::sin(0.37f * static_cast<float>(k) + phase), values[k]);
  }
  return values;
}

template <class T>
void check(DType dtype, const Case& c) {
  const auto logits = logits_of<T>(c, 0), uncond = logits_of<T>(c, 1);
  const int64_t stride[] = {kLength * (c.size + c.gap), c.size + c.gap};
  const std::vector<int64_t> current(kRows, c.size / 2), seeds = {-5, 7};
  const std::vector<double> temperature(kBatch, c.temperature), guidance(kBatch, 1.5), shift(kBatch, -2);
  std::vector<float> numbers(kTokenNumbers * kRows, NAN);
  std::vector<int64_t> tokens(kTokenResults * kRows, -1);
  TokenStats t{};
  t.batch = kBatch, t.length = kLength, t.vocabulary = c.size, t.dtype = dtype;
  t.logits = {logits.get(), {stride[0], stride[1]}};
  if (c.guided) t.uncond = {uncond.get(), {stride[0], stride[1]}}, t.guidance = guidance.data();
  t.current = current.data(), t.seeds = seeds.data(), t.temperature = temperature.data();
  if (c.changed && c.size > 1) t.shift = shift.data(), t.excluded = 1, t.exclude[0] = c.size - 1;
  t.top_k = c.top_k, t.top_p = c.top_p;
  t.numbers = numbers.data(), t.tokens = tokens.data();
  cpu::FASTDIFF_ISA::token_stats(t, 0, 1);  // in pieces, as threads take them
  cpu::FASTDIFF_ISA::token_stats(t, 1, kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    std::vector<double> z(c.size);
    for (int64_t i = 0; i < c.size; ++i) {
      const int64_t at = row * (c.size + c.gap) + i;
      const float cond = cpu::widen(logits[at]), u = cpu::widen(uncond[at]);
      z[i] = c.guided ? u + 1.5f * (cond - u) : cond;
      if (t.shift && i == current[row]) z[i] = static_cast<float>(z[i]) - 2.0f;
      if (t.excluded && i == c.size - 1) z[i] = -INFINITY;
    }
    double largest = -INFINITY, sum = 0, moment = 0;
    for (double v : z) largest = std::fmax(largest, v);
    for (double v : z) {
      const double w = std::exp(v - largest);
      if (w > 0) sum += w, moment += w * (v - largest);
    }
    const int64_t argmax = tokens[kArgmax * kRows + row], sample = tokens[kSample * kRows + row];
    if (argmax < 0 || argmax >= c.size || z[argmax] != largest) stop("argmax", c.size, argmax, largest);
    if (sample < 0 || sample >= c.size || !(z[sample] > -INFINITY)) stop("sample", c.size, sample, 0);
    const auto found = [&](int k) { return numbers[k * kRows + row]; };
    require_near("log_prob", c.size, found(kLogProb), z[sample] - largest - std::log(sum));
    require_near("max_prob", c.size, found(kMaxProb), 1 / sum);
    require_near("entropy", c.size, found(kEntropy), std::log(sum) - moment / sum);
    require_near("current_prob", c.size, found(kCurrentProb), std::exp(z[c.size / 2] - largest) / sum);
    for (int k = 0; k < kTokenNumbers; ++k) {
      if (!std::isfinite(found(k))) stop("a number", c.size, found(k), k);
    }
    int64_t larger = 0;
    for (double v : z) larger += v > z[sample];
    if (c.temperature > 0 && c.top_k > 0 && larger >= c.top_k) stop("rank", c.size, larger, c.top_k);
  }
}

void check(const Case& c) {
  check<float>(DType::f32, c);
  check<cpu::Float16>(DType::f16, c);
  check<cpu::BFloat16>(DType::bf16, c);
}

}  // namespace

int main() {
  for (int64_t size : {1, 2, 15, 16, 17, 63, 64, 65, 1000, 1023, 1024, 1025, 3077}) {
    for (int64_t gap : {0, 3}) {
      check({size, gap, 0, 1, 1, false, false});
      check({size, gap, 0, 0.5, 1, true, true});
      check({size, gap, 5, 0.8, 1, false, true});
      check({size, gap, 0, 1.2, 0.7, true, false});
      check({size, gap, 700, 2, 0.9, false, false});
      check({size, gap, 3, 0, 0.5, false, false});
    }
  }
  std::puts("ok");
}
