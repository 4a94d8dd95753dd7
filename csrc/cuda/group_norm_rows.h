// How a tensor is cut into slabs of rows of packets (group_norm_slabs.h). Plain C++ for the launcher and its tests.
#pragma once

#include "group_norm_slabs.h"

namespace fastdiff::cuda {

// channels_last: groups are taken together until a row is `least` bytes and whole units of `unit`.
struct RowWish {
  int64_t least, unit;
};

constexpr RowWish kWideRows = {128, 32}, kNarrowRows = {64, 16};

inline int64_t bytes_of(const GroupNorm& norm) { return norm.dtype == DType::f32 ? 4 : 2; }

inline int64_t group_channels(const GroupNorm& norm) { return norm.channels / norm.groups; }

// Elements of a packet: 16 bytes of them where every row of the tensor starts aligned, otherwise one.
inline int widest_packet(const GroupNorm& norm) {
  const int64_t run = norm.channels_last ? norm.channels : norm.positions;
  const bool aligned = (reinterpret_cast<uintptr_t>(norm.x) | reinterpret_cast<uintptr_t>(norm.y)) % 16 == 0;
  return aligned && run * bytes_of(norm) % 16 == 0 ? static_cast<int>(16 / bytes_of(norm)) : 1;
}

// The groups of a row, or 0 where no number of them makes whole packets and not too many for a block.
inline int64_t groups_together(const GroupNorm& norm, int width, RowWish wish) {
  int64_t best = 0;
  for (int64_t n = 1; n <= norm.groups; ++n) {
    const int64_t channels = n * group_channels(norm), bytes = channels * bytes_of(norm);
    if (channels > int64_t(width) * kNormThreads) break;
    if (norm.groups % n || channels % width) continue;
    best = n;
    if (bytes >= wish.least && bytes % wish.unit == 0) break;
  }
  return best;
}

inline int64_t largest_divisor(int64_t of, int64_t limit) {
  for (int64_t n = limit; n > 1; --n)
    if (of % n == 0) return n;
  return 1;
}

inline void lay_out_contiguous(Slabs& s, int width) {
  s.columns = 1, s.lanes = kNormThreads;
  s.units = static_cast<int32_t>(s.norm.positions / width);
  s.rows = group_channels(s.norm) * s.units, s.row_stride = width;
  s.lane_units = s.lanes % s.units, s.lane_channels = s.lanes / s.units;
}

inline void lay_out_last(Slabs& s, int width, int64_t together) {
  const int64_t packets = group_channels(s.norm) / width;
  if (together) {
    s.together = static_cast<int32_t>(together);
    s.columns = static_cast<int32_t>(together * group_channels(s.norm) / width);
  } else {
    s.columns = static_cast<int32_t>(largest_divisor(packets, kNormThreads));
    s.pieces = static_cast<int32_t>(packets / s.columns);
  }
  s.lanes = kNormThreads / s.columns, s.channels = s.columns * width;
  s.rows = s.norm.positions, s.row_stride = s.norm.channels;
}

// Everything but the parts. `width` gets the elements of a packet.
inline Slabs slabs_of(const GroupNorm& norm, RowWish wish, int& width) {
  Slabs s{};
  s.norm = norm, s.group_channels = static_cast<int32_t>(group_channels(norm)), s.together = s.pieces = 1;
  width = widest_packet(norm);
  if (norm.channels_last) {
    int64_t together = groups_together(norm, width, wish);
    if (!together && group_channels(norm) % width) together = groups_together(norm, width = 1, wish);
    lay_out_last(s, width, together);
  } else {
    lay_out_contiguous(s, width);
  }
  s.blocks = static_cast<int32_t>(norm.groups / s.together * s.pieces);
  s.slabs = norm.batch * s.blocks;
  return s;
}

}  // namespace fastdiff::cuda
