// The argument of group_norm's kernels: the tensor cut into slabs, and slabs into parts, one for each block.
//
// A slab is what shares statistics: rows of packets, a packet being the elements of one access. Contiguous: the
// (sample, group), each packet a row. channels_last: as many neighbouring groups as make good rows, each row one
// position; or a piece of the channels of a group that is wider than a block.
#pragma once

#include "../group_norm.h"
#include "inline.h"

namespace fastdiff::cuda {

constexpr int kNormThreads = 256;
constexpr int kMaxChannels = 1024;  // contiguous: channels that a part may touch

// Mean and sum of squared deviations of `count` elements.
struct alignas(16) Record {
  float count, mean, m2;
  uint32_t ready;  // raised for the blocks that wait for it
};

// What a kernel needs of a channel: (x - center) + offset, which is x + add less the group's pivot, is summed, where
// a * normalised + b is wanted; once the statistics are known, (x - center) * a + b.
struct alignas(16) Channel {
  float center, offset, a, b;
};

// The mean is counted from the group's pivot.
struct alignas(16) Statistics {
  float mean, rstd;
};

enum class Exchange : int32_t { none, cluster, flags };

struct Slabs {
  GroupNorm norm;
  int64_t slabs;
  int32_t blocks;              // slabs of a sample
  int32_t group_channels;
  int32_t together, pieces;    // groups of a slab; slabs of a group. One of them is 1
  int32_t columns;             // packets of a row
  int32_t lanes;               // rows a block takes at once
  int32_t channels;            // channels_last: of a slab
  int64_t rows, row_stride;    // of a slab; elements from one row to the next
  int32_t units;               // contiguous: packets of a channel
  int32_t lane_units, lane_channels;  // contiguous: lanes = lane_channels * units + lane_units
  int32_t share;               // rows of a part
  int32_t parts;               // of a slab
  int64_t teams;               // of `parts` blocks each, which take the slabs in turn
  Exchange exchange;
  int32_t at_slots, at_records, at_statistics, at_packets;  // in shared memory, after the channels
  Record* records;             // [batch * groups, pieces * parts]
};

}  // namespace fastdiff::cuda
