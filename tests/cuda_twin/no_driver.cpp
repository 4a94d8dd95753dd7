// Prints what solver_step answers where there is no GPU: it must be an error text, not a crash.
#include <cstdio>

#include "../../csrc/cuda/solver_step.h"

int main() {
  alignas(16) float memory[8] = {};
  fastdiff::SolverStep step{};
  step.row.a_x = 1;
  step.dims = 2;
  step.size[0] = 1, step.size[1] = 4;
  step.x = {memory, fastdiff::DType::f32, {4, 1}};
  step.out_x = {memory + 4, fastdiff::DType::f32, {4, 1}};
  const char* text = fastdiff::cuda::solver_step(step, nullptr);
  puts(text ? text : "launched");
  return 0;
}
