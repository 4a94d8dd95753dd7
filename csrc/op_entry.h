// What every op's entry from Python does: it reads the arguments, runs the kernel with torch's threads or on torch's
// stream, and answers.
#pragma once

#include <Python.h>

#include <cstdint>

#include "tensor.h"

#ifdef FASTDIFF_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastdiff {

enum class Target { cpu, cuda };

constexpr int64_t kBrief = 1 << 18;  // elements; with fewer a call is over before another thread could use the GIL

// entry(), or null where it threw a PythonError.
template <class Entry>
PyObject* guarded(const Entry& entry) {
  try {
    return entry();
  } catch (const PythonError&) {
    return nullptr;
  }
}

inline void require_count(const char* op, int expected, Py_ssize_t count) {
  if (count != expected) fail(PyExc_TypeError, "%s: expected %d positional arguments, got %zd", op, expected, count);
}

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  ~WithoutGil() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* state_;
};

// With torch's threads where more than one is useful, and holding the GIL where the call is brief.
template <class Call>
void run_on_cpu(const Call& call) {
  const int threads = call.useful_threads() > 1 ? torch_threads() : 1;
  if (call.elements() < kBrief && Call::kMayBeBrief) return call.run(threads);
  const WithoutGil released;
  call.run(threads);
}

#ifdef FASTDIFF_CUDA
// Makes the tensors' device the current one.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : before_(device) {
    cudaGetDevice(&before_);
    if (before_ != device) cudaSetDevice(device), changed_ = true;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_;
  bool changed_ = false;
};

// launch(stream) returns null or what went wrong.
template <class Launch>
void run_on_cuda(const char* op, int device, const Launch& launch) {
  void* const stream = torch_stream(device);
  const CurrentDevice current(device);
  if (const char* error = launch(stream)) fail(PyExc_RuntimeError, "fastdiff.%s on CUDA: %s", op, error);
}
#endif

// A Call is made of the arguments and whether they should be on CUDA, and has
//   kName, kArguments         the op's name, and how many arguments it takes
//   bool read()               checks and reads them; false where the kernel cannot take them as they are
//   elements()                of the output: without any, nothing runs
//   useful_threads(), run(threads), kMayBeBrief      the CPU's kernel
//   launch(stream)            CUDA's; null or what went wrong
//   done(), declined(module)  what Python gets where the kernel ran, and where read() was false
template <class Call, Target kTarget>
PyObject* op_entry(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    require_count(Call::kName, Call::kArguments, count);
    Call call(arguments, kTarget == Target::cuda);
    if (!call.read()) return call.declined(module);
    if (call.elements() == 0) return call.done();
#ifdef FASTDIFF_CUDA
    if constexpr (kTarget == Target::cuda) {
      run_on_cuda(Call::kName, call.device(), [&](void* stream) { return call.launch(stream); });
      return call.done();
    }
#endif
    run_on_cpu(call);
    return call.done();
  });
}

}  // namespace fastdiff
