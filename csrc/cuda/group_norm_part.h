// One part of a slab, as a thread of its block sees it.
#pragma once

#include "group_norm_math.h"
#include "team.h"

namespace fastdiff::cuda {

template <class E, bool kLast>
class Part {
 public:
  static constexpr int W = E::kWidth, kSlots = kLast ? W : 1;
  using Values = typename E::Values;

  FASTDIFF_DEVICE Part(const Slabs& s, int64_t slab, int part, int thread, char* shared)
      : s_(s), thread_(thread), part_(part), shared_(shared) {
    const GroupNorm& norm = s.norm;
    sample_ = slab / s.blocks;
    const int block = static_cast<int>(slab % s.blocks);
    first_group_ = block / s.pieces * s.together, piece_ = block % s.pieces;
    const int64_t first_row = part * s.share;
    const int taken = static_cast<int>(first_row + s.share < s.rows ? s.share : s.rows - first_row);
    column_ = thread % s.columns, lane_ = thread / s.columns;
    full_ = taken / s.lanes, rest_ = taken % s.lanes, mine_ = rows_of(lane_);

    channel_ = first_group_ * s.group_channels + piece_ * s.channels;
    int64_t start = sample_ * norm.channels * norm.positions;
    if constexpr (kLast) {
      start += channel_ + column_ * W;
      table_ = s.channels;
    } else {
      start += channel_ * norm.positions;
      const int skipped = static_cast<int>(first_row / s.units), begin = static_cast<int>(first_row % s.units);
      channel_ += skipped;
      table_ = (begin + taken - 1) / s.units + 1;
      at_ = {(begin + lane_) % s.units, (begin + lane_) / s.units};
    }
    const int64_t bytes = norm.dtype == DType::f32 ? 4 : 2;
    start_ = (start + (first_row + lane_) * s.row_stride) * bytes;
    step_ = s.lanes * s.row_stride * bytes;
  }

  // The part's elements on their way to shared memory, in kStages groups.
  FASTDIFF_DEVICE void fetch() const {
    const char* from = static_cast<const char*>(s_.norm.x) + start_;
    char* to = packets();
#pragma unroll 1
    for (int stage = 0; stage < kStages; ++stage) {
#pragma unroll 4
      for (int k = stage_end(stage - 1); k < stage_end(stage); ++k) {
        E::copy(to, from, s_.norm.dtype);
        from += step_, to += kNormThreads * E::kShared;
      }
      cp_async_commit();
    }
  }

  // The channels that the part touches, by all threads.
  FASTDIFF_DEVICE void tabulate() const {
    const GroupNorm& norm = s_.norm;
#pragma unroll 1
    for (int c = thread_; c < table_; c += kNormThreads) {
      const int channel = channel_ + c;
      const FloatPair pivot = this->pivot(channel / s_.group_channels);
      const FloatPair center = two_sum(pivot.high, -value(norm.add, sample_, channel, 0));
      const float factor = 1.0f + value(norm.scale, sample_, channel, 0);
      channels()[c] = {
          center.high,
          -(center.low + pivot.low),
          value(norm.weight, sample_, channel, 1) * factor,
          value(norm.bias, sample_, channel, 0) * factor + value(norm.shift, sample_, channel, 0),
      };
    }
  }

  // Each thread's moments, of elements from shared memory or from global memory, for `combine`.
  FASTDIFF_DEVICE void sum_shared() const {
    Sum sum(*this);
    const char* from = packets();
    const auto stage = [&](int number) {
#pragma unroll 2
      for (int k = stage_end(number - 1); k < stage_end(number); ++k, from += kNormThreads * E::kShared) {
        sum.take(E::load_shared(from));
      }
    };
    static_assert(kStages == 4);
    cp_async_wait<3>(), stage(0);
    cp_async_wait<2>(), stage(1);
    cp_async_wait<1>(), stage(2);
    cp_async_wait<0>(), stage(3);
    sum.put();
  }

  FASTDIFF_DEVICE void sum_global() const {
    Sum sum(*this);
    stream<4>([&](const Values& p) { sum.take(p); });
    sum.put();
  }

  // publish(group of the slab, its moments over this part), by warps.
  template <class Publish>
  FASTDIFF_DEVICE void combine(const Publish& publish) const {
    const int span = kLast ? s_.channels / s_.together : 1, row = kLast ? s_.channels : 1;
    const float elements = kLast ? 1 : W;
#pragma unroll 1
    for (int group = thread_ / kWarp; group < s_.together; group += kNormThreads / kWarp) {
      publish(group, merge(thread_ % kWarp, s_.lanes * span, [&](int i) {
                const int lane = i / span;
                const Slot slot = slots()[lane * row + group * span + (i - lane * span)];
                return Record{elements * static_cast<float>(rows_of(lane)), slot.mean, slot.m2, 0};
              }));
    }
  }

  // The statistics of each group of the slab, from its `count` records at(group); ready(record) comes before reading.
  template <class At, class Ready>
  FASTDIFF_DEVICE void set_statistics(int count, const At& at, const Ready& ready) const {
#pragma unroll 1
    for (int group = thread_ / kWarp; group < s_.together; group += kNormThreads / kWarp) {
      const Record* records = at(group);
#pragma unroll 1
      for (int i = thread_ % kWarp; i < count; i += kWarp) ready(records + i);
      set_statistics(group, merge(thread_ % kWarp, count, [&](int i) { return records[i]; }));
    }
  }

  FASTDIFF_DEVICE void set_statistics(int group, const Record& all) const {
    if (thread_ % kWarp == 0) group_statistics()[group] = statistics(all, s_.norm.eps);
  }

  // The statistics go into the table of channels, by all threads.
  FASTDIFF_DEVICE void apply() const {
    const int span = kLast ? s_.channels / s_.together : table_;
#pragma unroll 1
    for (int c = thread_; c < table_; c += kNormThreads) {
      const Channel from = channels()[c];
      const Statistics group = group_statistics()[c / span];
      const FloatPair center = two_sum(from.center, group.mean - from.offset);
      const float a = group.rstd * from.a;
      channels()[c] = {center.high, 0, a, from.b - center.low * a};
    }
  }

  FASTDIFF_DEVICE void write_shared() const {
    Output output(*this);
    const char* from = packets();
#pragma unroll 2
    for (int k = 0; k < mine_; ++k, from += kNormThreads * E::kShared) output.take(E::load_shared(from));
  }

  FASTDIFF_DEVICE void write_global() const {
    Output output(*this);
    stream<kLast ? 2 : 4>([&](const Values& p) { output.take(p); });  // what channels need takes registers
  }

  // The record of this part of a group in global memory, and the first of all of the group's.
  FASTDIFF_DEVICE Record* own_record(int group) const { return records_of(group) + piece_ * s_.parts + part_; }
  FASTDIFF_DEVICE Record* records_of(int group) const {
    return s_.records + (sample_ * s_.norm.groups + first_group_ + group) * s_.pieces * s_.parts;
  }

 private:
  static constexpr int kStages = 4;

  struct Slot {
    float mean, m2;
  };

  // Which of the part's channels a thread is at.
  struct Cursor {
    int unit = 0, channel = 0;

    FASTDIFF_DEVICE void next(const Slabs& s) {
      unit += s.lane_units, channel += s.lane_channels;
      if (unit >= s.units) unit -= s.units, ++channel;
    }
  };

  struct Sum {
    const Part& part;
    Cursor at = part.at_;
    Moments<W> moments;
    float center[kSlots], offset[kSlots];

    FASTDIFF_DEVICE explicit Sum(const Part& p) : part(p) {
      if constexpr (kLast) {
#pragma unroll
        for (int i = 0; i < kSlots; ++i) set(i, p.channels()[p.column_ * W + i]);
      }
    }

    FASTDIFF_DEVICE void set(int i, const Channel& c) { center[i] = c.center, offset[i] = c.offset; }

    FASTDIFF_DEVICE void take(const Values& p) {
      float v[W];
      E::unpack(p, part.s_.norm.dtype, v);
      if constexpr (!kLast) set(0, part.channels()[at.channel]), at.next(part.s_);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] = (v[i] - center[kLast ? i : 0]) + offset[kLast ? i : 0];
      moments.add(v);
    }

    FASTDIFF_DEVICE void put() const {
      Slot* to = part.slots() + part.thread_ * kSlots;
      if constexpr (kLast) {
        for (int i = 0; i < W; ++i) to[i] = {moments.mean[i], moments.m2[i]};
      } else {
        moments.merged(to->mean, to->m2);
      }
    }
  };

  // y = act((x - center) * a + b)
  struct Output {
    const Part& part;
    Cursor at = part.at_;
    char* to = static_cast<char*>(part.s_.norm.y) + part.start_;
    float center[kSlots], a[kSlots], b[kSlots];

    FASTDIFF_DEVICE explicit Output(const Part& p) : part(p) {
      if constexpr (kLast) {
#pragma unroll
        for (int i = 0; i < kSlots; ++i) set(i, p.channels()[p.column_ * W + i]);
      }
    }

    FASTDIFF_DEVICE void set(int i, const Channel& c) { center[i] = c.center, a[i] = c.a, b[i] = c.b; }

    FASTDIFF_DEVICE void take(const Values& p) {
      float v[W];
      E::unpack(p, part.s_.norm.dtype, v);
      if constexpr (!kLast) set(0, part.channels()[at.channel]), at.next(part.s_);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] = (v[i] - center[kLast ? i : 0]) * a[kLast ? i : 0] + b[kLast ? i : 0];
      if (part.s_.norm.act == Activation::silu) {
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = silu(v[i]);
      }
      E::store(to, part.s_.norm.dtype, v);
      to += part.step_;
    }
  };

  // take(packet) for each of the thread's packets in global memory, kAhead of them in flight.
  template <int kAhead, class Take>
  FASTDIFF_DEVICE void stream(const Take& take) const {
    const char* from = static_cast<const char*>(s_.norm.x) + start_;
    int left = mine_;
#pragma unroll 1
    for (; left >= kAhead; left -= kAhead) {
      Values p[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u, from += step_) p[u] = E::load(from, s_.norm.dtype);
#pragma unroll
      for (int u = 0; u < kAhead; ++u) take(p[u]);
    }
#pragma unroll 1
    for (; left > 0; --left, from += step_) take(E::load(from, s_.norm.dtype));
  }

  FASTDIFF_DEVICE int rows_of(int lane) const { return lane < s_.lanes ? full_ + (lane < rest_) : 0; }

  FASTDIFF_DEVICE int stage_end(int stage) const { return mine_ * (stage + 1) / kStages; }

  // x + add at the first element of a group of the sample.
  FASTDIFF_DEVICE FloatPair pivot(int group) const {
    const GroupNorm& norm = s_.norm;
    const int64_t channel = int64_t(group) * s_.group_channels;
    const int64_t at = sample_ * norm.channels * norm.positions + channel * (kLast ? 1 : norm.positions);
    return two_sum(element(norm.x, norm.dtype, at), value(norm.add, sample_, channel, 0));
  }

  FASTDIFF_DEVICE Channel* channels() const { return reinterpret_cast<Channel*>(shared_); }
  FASTDIFF_DEVICE Slot* slots() const { return reinterpret_cast<Slot*>(shared_ + s_.at_slots); }
  FASTDIFF_DEVICE Statistics* group_statistics() const {
    return reinterpret_cast<Statistics*>(shared_ + s_.at_statistics);
  }
  FASTDIFF_DEVICE char* packets() const { return shared_ + s_.at_packets + thread_ * E::kShared; }

  const Slabs& s_;
  int thread_, part_;
  char* shared_;
  int64_t sample_;
  int first_group_, piece_;
  int channel_;              // the part's first
  int table_;                // channels that it touches
  int full_, rest_, mine_;   // rows of each lane, lanes that have one more, rows of the thread
  int column_, lane_;
  int64_t start_, step_;     // of the thread's elements in x and y, in bytes
  Cursor at_;                // contiguous: where the thread begins
};

}  // namespace fastdiff::cuda
