// What one thread of each of gram's two kernels does: the products of a part of a sample, and the sum of the parts. This
// also compiles as plain C++, which is how it is tested without a GPU.
#pragma once

#include "block.h"
#include "gram_args.h"
#include "packet.h"

namespace fastdiff::cuda {

constexpr int kWarpThreads = 32, kGramWarps = kGramThreads / kWarpThreads;

// In the order of products(gram).
template <int N>
constexpr int kProducts = N * (N + 1) / 2 + N;

template <class T>
struct GramShared {
  alignas(16) T basis[kMaxTensors][kMaxVectors];
  double sum[kGramWarps][kMaxProducts];
};

FASTDIFF_DEVICE double shuffle_xor(double v, int lanes) {
  uint2 words = bit_cast<uint2>(v);
  words.x = bit_cast<uint32_t>(shuffle_xor(bit_cast<float>(words.x), lanes));
  words.y = bit_cast<uint32_t>(shuffle_xor(bit_cast<float>(words.y), lanes));
  return bit_cast<double>(words);
}

// Of all lanes, for all lanes.
template <class T>
FASTDIFF_DEVICE T warp_sum(T v) {
#pragma unroll
  for (int lanes = kWarpThreads / 2; lanes > 0; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}

// The elements of all tensors that a thread takes at once, on their way from memory.
template <class T, bool kDense>
struct GramLoads {
  Packet<T, kGramWidth> packet[kMaxTensors];

  FASTDIFF_DEVICE void load_all(const Parts<T>& p, unsigned read, int64_t sample, int64_t element) {
    const Place<kGramWidth> place(p, sample, element);
#pragma unroll
    for (int j = 0; j < kMaxTensors; ++j) {
      if (read >> j & 1) load(packet[j], p.tensor[j], place(p.tensor[j]));
    }
  }

  FASTDIFF_DEVICE void take(const Parts<T>& p, int j, T (&value)[kGramWidth]) const {
    unpack(packet[j], p.tensor[j].dtype, value);
  }
};

// One by one where memory is strided or not aligned; past the sample's end they are 0.
template <class T>
struct GramLoads<T, false> {
  T values[kMaxTensors][kGramWidth];

  FASTDIFF_DEVICE void load_all(const Parts<T>& p, unsigned read, int64_t sample, int64_t element) {
#pragma unroll
    for (int l = 0; l < kGramWidth; ++l) {
      const bool there = element + l < p.elements;
      const Place<1> place(p, sample, there ? element + l : 0);
#pragma unroll
      for (int j = 0; j < kMaxTensors; ++j) {
        T one[1] = {};
        if (there && read >> j & 1) {
          Packet<T, 1> packet;
          load(packet, p.tensor[j], place(p.tensor[j]));
          unpack(packet, p.tensor[j].dtype, one);
        }
        values[j][l] = one[0];
      }
    }
  }

  FASTDIFF_DEVICE void take(const Parts<T>&, int j, T (&value)[kGramWidth]) const {
    for (int l = 0; l < kGramWidth; ++l) value[l] = values[j][l];
  }
};

template <class T, int N, bool kDense>
FASTDIFF_DEVICE void add_products(T (&sum)[kProducts<N>], const Parts<T>& p, unsigned read, const GramShared<T>& shared,
                                  const GramLoads<T, kDense>& loads) {
  T v[N][kGramWidth] = {};
#pragma unroll
  for (int j = 0; j < kMaxTensors; ++j) {
    if (!(read >> j & 1)) continue;
    T value[kGramWidth];
    loads.take(p, j, value);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const T weight = shared.basis[j][i];
      if (weight == 0) continue;  // takes nothing, not even from an infinity
#pragma unroll
      for (int l = 0; l < kGramWidth; ++l) v[i][l] += weight * value[l];
    }
  }
#pragma unroll
  for (int l = 0; l < kGramWidth; ++l) {
    int k = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = i; j < N; ++j, ++k) sum[k] += v[i][l] * v[j][l];
      sum[k++] += v[i][l];
    }
  }
}

// The tensors that the basis reads, a bit for each. By all threads: the basis comes to shared memory.
template <class T, int N>
FASTDIFF_DEVICE unsigned read_basis(const Parts<T>& p, int thread, GramShared<T>& shared) {
  if (thread < kMaxTensors * kMaxVectors) {
    const int j = thread / kMaxVectors, i = thread % kMaxVectors;
    T weight = p.basis[j][i];
    if (p.device_basis && i < N && j < p.tensors) {
      weight = static_cast<T>(p.device_basis[i * p.basis_stride[0] + j * p.basis_stride[1]]);
    }
    shared.basis[j][i] = weight;
  }
  sync_block();
  unsigned read = 0;
#pragma unroll
  for (int j = 0; j < kMaxTensors; ++j) {
    bool any = false;
#pragma unroll
    for (int i = 0; i < N; ++i) any = any || shared.basis[j][i] != 0;
    read |= static_cast<unsigned>(any && p.tensor[j].data) << j;
  }
  return read;
}

// A thread sums a few dozen products in the compute type, and so does a warp its threads'; above that it is double.
template <class T, int N, bool kDense>
FASTDIFF_DEVICE void part_thread(const Parts<T>& p, int64_t block, int thread, void* memory) {
  constexpr int kAhead = kDense && sizeof(T) == 4 ? 2 : 1;  // rounds whose loads are in flight
  GramShared<T>& shared = *static_cast<GramShared<T>*>(memory);
  const unsigned read = read_basis<T, N>(p, thread, shared);
  const int64_t sample = block / p.parts, part = block - sample * p.parts;
  const int64_t begin = part * p.rounds * kRoundElements + thread * kGramWidth;
  T sum[kProducts<N>] = {};
#pragma unroll 1
  for (int round = 0; round < p.rounds; round += kAhead) {
    GramLoads<T, kDense> loads[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t element = begin + (round + u) * kRoundElements;
      if (round + u < p.rounds && element < p.elements) loads[u].load_all(p, read, sample, element);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t element = begin + (round + u) * kRoundElements;
      if (round + u < p.rounds && element < p.elements) add_products<T, N>(sum, p, read, shared, loads[u]);
    }
  }
#pragma unroll
  for (int k = 0; k < kProducts<N>; ++k) {
    const T all = warp_sum(sum[k]);
    if (thread % kWarpThreads == 0) shared.sum[thread / kWarpThreads][k] = all;
  }
  sync_block();
  if (thread >= kProducts<N>) return;
  double all = 0;
  for (int warp = 0; warp < kGramWarps; ++warp) all += shared.sum[warp][thread];
  p.partial[(sample * kProducts<N> + thread) * p.parts + part] = all;
}

// What the second kernel needs.
struct Partials {
  const double* partial;  // [batch, products, parts]
  int64_t parts, elements;
  int vectors, products;
  double* out;
};

inline Partials partials_of(const Gram& g, const double* partial) {
  const int64_t elements = elements_per_sample(g);
  return {partial, parts_of(elements), elements, g.vectors, products(g), g.out};
}

// A sample's matrix, each product by a warp.
FASTDIFF_DEVICE void sum_thread(const Partials& p, int64_t sample, int thread) {
  const int lane = thread % kWarpThreads, size = p.vectors + 1;
  double* out = p.out + sample * size * size;
  int i = 0, j = 0;
#pragma unroll 1
  for (int k = 0; k < p.products; ++k) {
    if (k % kGramWarps == thread / kWarpThreads) {
      const double* from = p.partial + (sample * p.products + k) * p.parts;
      double all = 0;
      for (int64_t part = lane; part < p.parts; part += kWarpThreads) all += from[part];
      all = warp_sum(all);
      if (lane == 0) out[i * size + j] = out[j * size + i] = all;
    }
    if (++j == size) j = ++i;
  }
  if (thread == 0) out[size * size - 1] = static_cast<double>(p.elements);
}

}  // namespace fastdiff::cuda
