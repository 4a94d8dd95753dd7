// The kernel's argument, and where a thread's elements lie in memory.
#pragma once

#include "../solver_step.h"
#include "inline.h"

namespace fastdiff::cuda {

// What an operand adds to x' and to base'.
template <class T>
struct Weights {
  T a, b;
};

template <class T>
struct Term {
  Operand value;
  Weights<T> weight;
};

template <class T>
struct Draw {
  uint32_t noise;
  Weights<T> weight;
};

// A SolverStep in the compute type, without what the row does not read: the argument of the kernel.
template <class T>
struct Step {
  int dims;
  int64_t size[kMaxDims];
  int64_t elements;  // of one sample
  Operand x, m, m_uncond;
  T p_x, p_m, clamp, guidance, c_in;
  Weights<T> x_weight, d_weight;
  int terms, draws;
  Term<T> term[kMaxHistory];  // base, H_1, H_2, ... where read
  Draw<T> draw[kMaxNoise];
  Operand out_x, out_base, out_d, out_input;
  int copies;
  const double* guidances;
  const double* thresholds;
  const int64_t* seeds;
};

// Threads of a block that takes W elements each. Small blocks spread a small latent over more multiprocessors.
template <int W>
constexpr int kThreads = W == 1 ? 256 : W == 4 ? 64 : 128;

// Where a thread's W elements lie in each operand. More than one is taken only where samples are contiguous.
template <int W>
struct Place {
  int64_t sample, element;

  template <class Call>
  FASTDIFF_INLINE Place(const Call&, int64_t sample, int64_t element) : sample(sample), element(element) {}

  FASTDIFF_INLINE int64_t operator()(const Operand& v) const { return sample * v.stride[0] + element; }
};

template <>
struct Place<1> {
  int64_t at[kMaxDims];

  template <class Call>
  FASTDIFF_INLINE Place(const Call& s, int64_t sample, int64_t element) : at{sample} {
    uint64_t rest = static_cast<uint64_t>(element);
#pragma unroll
    for (int d = kMaxDims - 1; d > 0; --d) {
      if (d >= s.dims) continue;
      const uint64_t size = static_cast<uint64_t>(s.size[d]), next = rest / size;
      at[d] = static_cast<int64_t>(rest - next * size);
      rest = next;
    }
  }

  FASTDIFF_INLINE int64_t operator()(const Operand& v) const {
    int64_t offset = 0;
#pragma unroll
    for (int d = 0; d < kMaxDims; ++d) offset += at[d] * v.stride[d];
    return offset;
  }
};

// What the device holds one of for each sample.
struct PerSample {
  double guidance, threshold;
  int64_t seed;

  template <class T>
  FASTDIFF_INLINE PerSample(const Step<T>& s, int64_t sample)
      : guidance(s.guidances ? s.guidances[sample] : 0),
        threshold(s.thresholds ? s.thresholds[sample] : 0),
        seed(s.seeds ? s.seeds[sample] : 0) {}
};

}  // namespace fastdiff::cuda
