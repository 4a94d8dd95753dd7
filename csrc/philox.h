// Counter-based noise, shared by host and device; fastdiff/ops/philox.py has the definition and the reference. An
// element has its number whoever computes it, so noise does not depend on the batch, on threads or on the device, and
// drawing the same noise again takes no memory.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTDIFF_HD __host__ __device__ __forceinline__
#else
#define FASTDIFF_HD static inline  // static: each instruction set's object keeps its own copy
#endif

namespace fastdiff {

struct Words {
  uint32_t r[4];
};

// Philox4x32-10 (Salmon et al. 2011) at counter (block, noise, purpose) under the sample's seed; normal noise's purpose
// is 0.
FASTDIFF_HD Words philox(uint64_t seed, uint64_t block, uint32_t noise, uint32_t purpose = 0) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = noise, c3 = purpose;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c0) * 0xD2511F53u, p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The radius's uniform number in (0, 1], rounded to float in every precision.
FASTDIFF_HD float radius_uniform(uint32_t r) { return static_cast<float>(r) * 0x1p-32f + 0x1p-33f; }

// The random number in (0, 1) that a row of logits is drawn by, on a grid of 2^-53.
FASTDIFF_HD double row_uniform(uint64_t seed, uint64_t position, uint32_t index) {
  const Words words = philox(seed, position, index, 2);
  return (static_cast<double>(static_cast<uint64_t>(words.r[0]) << 20 | words.r[1] >> 12) + 0.5) * 0x1p-52;
}

}  // namespace fastdiff
