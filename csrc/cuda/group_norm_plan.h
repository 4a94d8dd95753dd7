// Which of group_norm's forms serves a call, and how its slabs are cut into parts. Plain C++ for the launcher and its
// tests. In the order of preference:
//
// alone      a block holds a slab in shared memory: x is read once
// cluster    sm_90: up to 8 blocks hold one, and exchange what they found through each other's shared memory
// together   blocks hold one and exchange it through global memory, all of them on the machine at once; teams of them
//            take the slabs in turn, so that one loads while another stores
// twice      two launches: statistics, then the output from a second reading
#pragma once

#include <algorithm>

#include "device.h"
#include "group_norm_rows.h"

namespace fastdiff::cuda {

enum class Form { alone, cluster, together, twice };

struct Plan {
  Form form;
  int width;  // elements of a packet
  Slabs slabs;
  int shared;  // bytes of a block
  int64_t blocks;
};

constexpr int kMaxCluster = 8;
constexpr int kTeamBlocks = 3;            // a multiprocessor, where blocks wait for each other
constexpr int kStreamBlocks = 8;          // a multiprocessor, over two launches
constexpr int64_t kMaxShare = 1 << 30;    // rows of a part
constexpr int kBlockOverhead = 1024;      // bytes of shared memory that a block costs beside its own
constexpr int kSmallSlab = 32768;         // bytes; spreading a smaller one would not pay for waiting through memory

inline int packet_bytes(const Plan& p) { return p.width == 1 ? 4 : 16; }

inline int64_t channels_of_part(const Slabs& s) {
  if (s.norm.channels_last) return s.channels;
  return std::min<int64_t>(group_channels(s.norm), (s.share - 1) / s.units + 2);
}

// Rows to a part, and with them the parts and the shared memory.
inline void cut(Plan& p, int64_t share) {
  Slabs& s = p.slabs;
  s.share = static_cast<int32_t>(std::min<int64_t>(share, kMaxShare));
  s.parts = static_cast<int32_t>(ceil_div(s.rows, s.share));
  s.teams = s.slabs;
  s.exchange = p.form == Form::cluster    ? Exchange::cluster
               : p.form == Form::together ? Exchange::flags
                                          : Exchange::none;
  const int received = p.form == Form::cluster ? s.together * s.parts : 0, slots = s.norm.channels_last ? p.width : 1;
  const int64_t channels = std::min<int64_t>(channels_of_part(s), kMaxChannels);
  s.at_slots = static_cast<int32_t>(channels * int64_t(sizeof(Channel)));
  s.at_records = s.at_slots + kNormThreads * slots * 8;
  s.at_statistics = s.at_records + received * int32_t(sizeof(Record));
  s.at_packets = s.at_statistics + s.together * int32_t(sizeof(Statistics));
  p.shared = s.at_packets, p.blocks = s.slabs * s.parts;
}

inline int64_t resident_bytes(const Plan& p) {
  const Slabs& s = p.slabs;
  return s.at_packets + ceil_div(s.share, s.lanes) * kNormThreads * packet_bytes(p);
}

inline bool fits(const Plan& p, int64_t bytes) {
  return p.slabs.pieces == 1 && resident_bytes(p) <= bytes &&
         (p.slabs.norm.channels_last || channels_of_part(p.slabs) <= kMaxChannels);
}

// The fewest parts that fit and either fill the machine or leave a thread no more than two packets.
inline bool plan_cluster(Plan& p, const Device& device) {
  const int64_t rows = p.slabs.rows, enough = 2 * device.multiprocessors;
  Plan best = p;
  bool found = false;
  for (int parts = 1; parts <= (device.arch >= 90 ? kMaxCluster : 1); parts *= 2) {
    p.form = parts == 1 ? Form::alone : Form::cluster;
    cut(p, ceil_div(rows, parts));
    if (p.slabs.parts != parts) break;
    if (!fits(p, device.block_shared)) continue;
    best = p, found = true;
    if (p.blocks >= enough || p.slabs.share <= 2 * p.slabs.lanes) break;
  }
  p = best;
  p.shared = static_cast<int>(resident_bytes(p));
  return found;
}

// As many teams as are resident, evenly loaded; at least two, or one for each slab.
inline bool plan_together(Plan& p, const Device& device) {
  Slabs& s = p.slabs;
  const int64_t resident = int64_t(kTeamBlocks) * device.multiprocessors, rows = s.rows;
  const int64_t bytes = std::min(device.block_shared, device.shared / kTeamBlocks - kBlockOverhead);
  p.form = Form::together;
  cut(p, rows);
  const int64_t rounds = (bytes - s.at_packets) / (kNormThreads * packet_bytes(p));
  if (rounds < 1 || s.pieces > 1) return false;
  const int64_t least = ceil_div(rows, rounds * s.lanes);
  int64_t teams = std::min(s.slabs, resident / least);
  if (teams < std::min<int64_t>(2, s.slabs)) return false;
  teams = ceil_div(s.slabs, ceil_div(s.slabs, teams));
  cut(p, ceil_div(rows, std::min(resident / teams, std::max(least, ceil_div(rows, 2 * s.lanes)))));
  s.teams = teams;
  p.blocks = teams * s.parts;
  p.shared = static_cast<int>(resident_bytes(p));
  return s.parts > 1 && fits(p, bytes);
}

inline void plan_twice(Plan& p, const Device& device) {
  const Slabs& s = p.slabs;
  const int64_t wanted = ceil_div(int64_t(kStreamBlocks) * device.multiprocessors, s.slabs);
  const int64_t parts = std::min(wanted, ceil_div(s.rows, 4 * s.lanes));
  p.form = Form::twice;
  int64_t share = ceil_div(s.rows, parts);
  if (!s.norm.channels_last && group_channels(s.norm) > kMaxChannels) {
    share = std::min(share, int64_t(kMaxChannels - 2) * s.units);
  }
  cut(p, share);
}

// norm is not empty.
inline Plan plan(const GroupNorm& norm, const Device& device) {
  Plan wide{}, narrow{};
  wide.slabs = slabs_of(norm, kWideRows, wide.width), narrow.slabs = slabs_of(norm, kNarrowRows, narrow.width);
  const bool fill = wide.slabs.slabs * kMaxCluster >= device.multiprocessors;
  Plan one = fill ? wide : narrow, team = one;
  const bool whole = plan_cluster(one, device);
  if (whole && (device.arch >= 90 || one.slabs.slabs >= device.multiprocessors || resident_bytes(one) <= kSmallSlab)) {
    return one;
  }
  if (plan_together(team, device)) return team;
  if (whole) return one;
  plan_twice(wide, device);
  return wide;
}

// Records of all parts in global memory.
inline int64_t workspace_bytes(const Plan& p) {
  if (p.form == Form::alone || p.form == Form::cluster) return 0;
  const Slabs& s = p.slabs;
  return s.norm.batch * s.norm.groups * s.pieces * s.parts * int64_t(sizeof(Record));
}

// launch.run<E, kLast>(plan), with the access E that the plan wants.
template <template <DType> class Wide, class Narrow, class Launch>
const char* dispatch(const Plan& p, const Launch& launch) {
  const auto run = [&](auto access) {
    using E = decltype(access);
    return p.slabs.norm.channels_last ? launch.template run<E, true>(p) : launch.template run<E, false>(p);
  };
  if (std::max(p.slabs.norm.positions, p.slabs.norm.channels) > 0x7fffffff) {
    return "group_norm: more than 2^31 channels or positions";
  }
  if (p.blocks > 0x7fffffff) return "group_norm: more groups than a grid has blocks";
  if (p.width == 1) return run(Narrow());
  if (p.slabs.norm.dtype == DType::f32) return run(Wide<DType::f32>());
  return p.slabs.norm.dtype == DType::f16 ? run(Wide<DType::f16>()) : run(Wide<DType::bf16>());
}

}  // namespace fastdiff::cuda
