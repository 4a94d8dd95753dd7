// What one thread of each of group_norm's kernels does. This also compiles as plain C++, which is how it is tested
// without a GPU.
#pragma once

#include "group_norm_part.h"

namespace fastdiff::cuda {

// x is read once: parts stay in shared memory, and the blocks of a team exchange what they found.
template <class E, bool kLast>
FASTDIFF_DEVICE void resident_thread(const Slabs& s, int64_t block, int thread, char* shared) {
  const int number = static_cast<int>(block % s.parts);
  Record* received = reinterpret_cast<Record*>(shared + s.at_records);  // [together, parts], filled by peers
  if (s.exchange == Exchange::cluster) cluster_arrive();
#pragma unroll 1
  for (int64_t slab = block / s.parts; slab < s.slabs; slab += s.teams) {
    const Part<E, kLast> part(s, slab, number, thread, shared);
    part.fetch();
    part.tabulate();
    sync_block();
    part.sum_shared();
    sync_block();
    if (s.exchange == Exchange::cluster) cluster_wait();  // all peers have begun
    part.combine([&](int group, const Record& own) {
      const int lane = thread % kWarp;
      if (s.exchange == Exchange::none) {
        part.set_statistics(group, own);
      } else if (s.exchange == Exchange::cluster) {
        if (lane < s.parts) *map_shared_rank(received + group * s.parts + number, lane) = own;
      } else if (lane == 0) {
        Record* to = part.own_record(group);
        to->count = own.count, to->mean = own.mean, to->m2 = own.m2;
        raise_flag(&to->ready);
      }
    });
    if (s.exchange == Exchange::cluster) cluster_arrive(), cluster_wait();
    if (s.exchange != Exchange::none) {
      const bool flags = s.exchange == Exchange::flags;
      part.set_statistics(
          s.parts, [&](int group) { return flags ? part.records_of(group) : received + group * s.parts; },
          [&](const Record* record) { if (flags) wait_flag(&record->ready); });
    }
    sync_block();
    part.apply();
    sync_block();
    part.write_shared();
    sync_block();  // until the next slab may overwrite what all read
  }
}

// x is read twice: by this kernel, which leaves a record for each part, and by the next.
template <class E, bool kLast>
FASTDIFF_DEVICE void statistics_thread(const Slabs& s, int64_t block, int thread, char* shared) {
  const Part<E, kLast> part(s, block / s.parts, static_cast<int>(block % s.parts), thread, shared);
  part.tabulate();
  sync_block();
  part.sum_global();
  sync_block();
  part.combine([&](int group, const Record& own) {
    if (thread % kWarp == 0) *part.own_record(group) = own;
  });
}

template <class E, bool kLast>
FASTDIFF_DEVICE void output_thread(const Slabs& s, int64_t block, int thread, char* shared) {
  const Part<E, kLast> part(s, block / s.parts, static_cast<int>(block % s.parts), thread, shared);
  part.tabulate();
  sync_block();
  part.set_statistics(s.pieces * s.parts, [&](int group) { return part.records_of(group); }, [](const Record*) {});
  sync_block();
  part.apply();
  sync_block();
  part.write_global();
}

}  // namespace fastdiff::cuda
