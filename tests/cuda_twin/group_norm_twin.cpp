// Runs group_norm's kernel code on a model of the device (grid.h), as the launcher would. Cases come on standard input,
// each the struct Case and its buffers (buffers.h); without buffers it is only planned. On standard output go a report
// and the buffers as the kernels left them.
#include "../../csrc/cuda/group_norm_kernels.h"
#include "../../csrc/cuda/group_norm_plan.h"
#include "buffers.h"
#include "grid.h"

#include <cstring>
#include <memory>

namespace fastdiff::cuda {
namespace {

struct Case {
  GroupNorm norm;
  int32_t arch, multiprocessors, block_shared, shared;
  uint32_t lot;
};

struct Report {
  int64_t form, width, together, pieces, columns, lanes, share, parts, teams, slabs, shared, blocks, workspace;
  char text[96];
};

struct OnHost {
  uint32_t lot;

  template <class E, bool kLast>
  const char* run(const Plan& p) const {
    const Slabs& s = p.slabs;
    const auto each = [&](auto thread) {
      const int64_t resident = p.form == Form::cluster ? s.parts : p.form == Form::together ? p.blocks : 1;
      run_grid({p.blocks, kNormThreads, p.shared, resident, lot}, [&](int64_t block, int number, char* shared) {
        thread(s, block, number, shared);
      });
    };
    if (p.form == Form::twice) {
      each(statistics_thread<E, kLast>);
      each(output_thread<E, kLast>);
    } else {
      if (p.form == Form::together) memset(s.records, 0, static_cast<size_t>(workspace_bytes(p)));
      each(resident_thread<E, kLast>);
    }
    return nullptr;
  }
};

void run_case(Case& c) {
  GroupNorm& norm = c.norm;
  std::vector<Buffer> buffers = read_buffers();
  for (ChannelValues* v : {&norm.weight, &norm.bias, &norm.add, &norm.scale, &norm.shift}) relocate(v->data, buffers);
  relocate(norm.x, buffers);
  relocate(norm.y, buffers);

  Plan p = plan(norm, Device{c.arch, c.multiprocessors, c.block_shared, c.shared});
  const Slabs& s = p.slabs;
  Report report{static_cast<int64_t>(p.form), p.width, s.together, s.pieces, s.columns, s.lanes, s.share, s.parts,
                s.teams, s.slabs, p.shared, p.blocks, workspace_bytes(p), {}};
  const size_t bytes = static_cast<size_t>(workspace_bytes(p));
  std::unique_ptr<char[]> workspace(new char[bytes]);
  memset(workspace.get(), 0xff, bytes);
  p.slabs.records = reinterpret_cast<Record*>(workspace.get());
  const char* text = buffers.empty() ? nullptr : dispatch<Wide, Narrow>(p, OnHost{c.lot});
  if (text) snprintf(report.text, sizeof report.text, "%s", text);
  fwrite(&report, sizeof report, 1, stdout);
  write_buffers(buffers);
}

}  // namespace
}  // namespace fastdiff::cuda

int main() {
  fastdiff::cuda::Case c;
  while (fread(&c, sizeof c, 1, stdin) == 1) fastdiff::cuda::run_case(c);
  return 0;
}
