// token_stats for one instruction set (FASTDIFF_ISA). A row is read once, in stretches that stay in the first-level
// cache: their largest logits and sums give the row's numbers and say in which stretch the argmax and the sample are,
// and these are read again. With top_k or top_p so are the stretches that may hold tokens that are left.
#include "token_stats.h"

#include "kernels.h"
#include "token_cut.h"
#include "../philox.h"

namespace fastdiff::cpu {
namespace {

// The two largest logits of a row.
struct Top {
  int64_t argmax;
  float first, second;
};

// The law that the sample is drawn from, and the sample.
struct Drawn {
  int64_t token;
  Law law;
  double inverse;  // of the temperature
};

template <class S>
class Rows {
 public:
  explicit Rows(const TokenStats& t) : t_(t), reader_(t), sums_(t.vocabulary), cut_(t, reader_, sums_) {}

  void run(int64_t row) {
    reader_.set_row(row);
    const int64_t sample = row / t_.length;
    const double t = t_.temperature ? t_.temperature[sample] : 0, inverse = t > 0 ? 1 / bounded_temperature(t) : 0;
    const bool tempered = inverse > 0 && inverse != 1;
    const float scale = scale_of(inverse);
    for (int64_t s = 0; s < sums_.count; ++s) {
      const Stretch stretch = reader_.read(s * kStretch);
      const int64_t bytes = sizeof(S);
      tempered ? add_stretch<true>(stretch, bytes, scale, s, sums_) : add_stretch<false>(stretch, bytes, scale, s, sums_);
    }
    const float largest = largest_of_row();
    Law drawn;
    if (tempered) drawn = merge(sums_, sums_.drawn, sums_.drawn_moment, largest, scale);
    const Law plain = merge(sums_, sums_.sum, sums_.moment, largest, kLog2e);
    if (!(plain.sum > 0) || largest == kInfinity) return write_lawless(row);
    const Top top = top_of_row(largest);
    const float* shares = tempered ? sums_.drawn : sums_.sum;
    write(row, plain, top, draw_row(row, top, tempered ? drawn : plain, inverse, scale, shares));
  }

 private:
  float largest_of_row() const {
    Floats most = broadcast(-kInfinity);
    for (int64_t s = 0; s < sums_.padded; s += kLanes) most = max(load(sums_.largest + s), most);
    return largest_of(most);
  }

  Top top_of_row(float largest) {
    int64_t at = 0;
    while (sums_.largest[at] != largest) ++at;
    Floats second = broadcast(-kInfinity);
    const float own = sums_.largest[at];
    sums_.largest[at] = -kInfinity;
    for (int64_t s = 0; s < sums_.padded; s += kLanes) second = max(load(sums_.largest + s), second);
    sums_.largest[at] = own;
    const Stretch stretch = reader_.read(at * kStretch);
    int64_t i = 0;
    while (stretch.z[i] != largest) ++i;
    const int64_t there = i / kLanes * kLanes;
    for (int64_t v = 0; v < stretch.padded; v += kLanes) {
      Floats z = load(stretch.z + v);
      if (v == there) z[i - there] = -kInfinity;
      second = max(z, second);
    }
    return {stretch.begin + i, largest, largest_of(second)};
  }

  Drawn draw_row(int64_t row, const Top& top, Law law, double inverse, float scale, const float* shares) {
    if (inverse == 0) return {top.argmax, {1, 0}, 0};
    const int64_t sample = row / t_.length;
    const int64_t position = t_.positions ? t_.positions[row] : row % t_.length;
    const uint32_t index = t_.index ? static_cast<uint32_t>(t_.index[sample]) : 0;
    const double u = row_uniform(static_cast<uint64_t>(t_.seeds[sample]), static_cast<uint64_t>(position), index);
    if (cut_.is_needed()) {
      law = cut_.law(top.first, law.sum, inverse, scale);
      const auto weigh = [this](const Stretch& stretch, int64_t s, float* to) { cut_.weigh(stretch, s, to); };
      return {draw(reader_, sums_.count, sums_.drawn, law, u, weigh), law, inverse};
    }
    const auto weigh = [&](const Stretch& stretch, int64_t s, float* to) {
      const Floats from = broadcast(sums_.largest[s]);
      for (int64_t i = 0; i < stretch.padded; i += kLanes) {
        store(to + i, weight(below(load(stretch.z + i), from), broadcast(scale)));
      }
    };
    return {draw(reader_, sums_.count, shares, law, u, weigh), law, inverse};
  }

  void write(int64_t row, const Law& plain, const Top& top, const Drawn& drawn) {
    const double log_sum = __builtin_log(plain.sum), first = static_cast<double>(top.first);
    const double x = static_cast<double>(logit(drawn.token)) - first;
    const double log_drawn = drawn.inverse > 0 ? drawn.inverse * x - __builtin_log(drawn.law.sum) : 0;
    double current = 0;
    if (t_.current && t_.current[row] >= 0 && t_.current[row] < t_.vocabulary) {
      current = __builtin_exp(static_cast<double>(logit(t_.current[row])) - first) / plain.sum;
    }
    const double margin = -__builtin_expm1(static_cast<double>(top.second) - first) / plain.sum;
    const double numbers[kTokenNumbers] = {
        x - log_sum,       1 / plain.sum, margin, entropy(plain, 1), current, log_drawn,
        entropy(drawn.law, drawn.inverse),
    };
    const int64_t rows = t_.batch * t_.length;
    for (int k = 0; k < kTokenNumbers; ++k) t_.numbers[k * rows + row] = static_cast<float>(numbers[k]);
    t_.tokens[kArgmax * rows + row] = top.argmax, t_.tokens[kSample * rows + row] = drawn.token;
  }

  float logit(int64_t token) {
    const int64_t begin = token / kStretch * kStretch;
    return reader_.read(begin).z[token - begin];
  }

  void write_lawless(int64_t row) {
    const int64_t rows = t_.batch * t_.length;
    for (int k = 0; k < kTokenNumbers; ++k) t_.numbers[k * rows + row] = __builtin_nanf("");
    for (int k = 0; k < kTokenResults; ++k) t_.tokens[k * rows + row] = 0;
  }

  const TokenStats& t_;
  TokenReader<S> reader_;
  StretchSums sums_;
  TokenCut<S> cut_;
};

template <class S>
void run(const TokenStats& t, int64_t first, int64_t last) {
  Rows<S> rows(t);
  for (int64_t row = first; row < last; ++row) rows.run(row);
}

}  // namespace

namespace FASTDIFF_ISA {

void token_stats(const TokenStats& t, int64_t first, int64_t last) {
  switch (t.dtype) {
    case DType::f16: return run<Float16>(t, first, last);
    case DType::bf16: return run<BFloat16>(t, first, last);
    default: return run<float>(t, first, last);
  }
}

}  // namespace FASTDIFF_ISA
}  // namespace fastdiff::cpu
