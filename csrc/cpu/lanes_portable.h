// lanes.h in the compiler's own vector types, 128 bits wide, which any machine's registers hold.
#pragma once

#include "lanes.h"

namespace fastdiff::cpu {
namespace {

inline Floats load(const BFloat16* from) {
  return bit_cast<Floats>(__builtin_convertvector(load_16_bits(from), UInts) << 16);
}

inline void store(BFloat16* to, Floats v) {  // as narrow() in convert.h
  const UInts word = bit_cast<UInts>(v), rounded = word + 0x7fff + ((word >> 16) & 1);
  const UInts half = (word & 0x7fffffff) > 0x7f800000 ? UInts{} + 0x7fc0 : rounded >> 16;
  const UInt16s shorts = __builtin_convertvector(half, UInt16s);
  std::memcpy(to, &shorts, sizeof shorts);
}

inline Floats load(const Float16* from) {
  Floats v;
  for (int i = 0; i < kLanes; ++i) v[i] = widen(from[i]);
  return v;
}

inline void store(Float16* to, Floats v) {
  for (int i = 0; i < kLanes; ++i) narrow(v[i], to[i]);
}

inline Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }  // b where one is NaN
inline Floats min(Floats a, Floats b) { return a < b ? a : b; }

}  // namespace
}  // namespace fastdiff::cpu
