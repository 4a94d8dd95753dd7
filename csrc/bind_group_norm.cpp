// Python arguments to a GroupNorm. Errors are Python exceptions.
#include <algorithm>

#include "bind.h"
#include "cpu/group_norm.h"
#include "group_norm.h"
#include "on_cpu.h"
#include "on_device.h"
#include "tensor.h"

#if defined(FASTDIFF_CUDA) && __has_include("cuda/group_norm.cu")
#define FASTDIFF_CUDA_GROUP_NORM
#endif

namespace fastdiff {

#ifdef FASTDIFF_CUDA_GROUP_NORM
namespace cuda {
int64_t group_norm_workspace(const GroupNorm& norm, int device);  // bytes
const char* group_norm(const GroupNorm& norm, void* workspace, int64_t workspace_bytes, void* stream);
}  // namespace cuda
#endif

namespace {

enum Argument { kX, kY, kGroups, kWeight, kBias, kEps, kAdd, kScale, kShift, kAct, kArguments };

constexpr const char* kNames[] = {"x", "y", "groups", "weight", "bias", "eps", "add", "scale", "shift", "act"};

PyObject* workspace_of;

enum class Outcome { ready, other_layout, error };

Outcome fail(PyObject* type, int argument, const char* what) {
  PyErr_Format(type, "%s: %s", kNames[argument], what);
  return Outcome::error;
}

bool is_dense(const Tensor& t) {
  int64_t expected = 1;
  for (int d = t.rank - 1; d >= 0; expected *= t.shape[d--]) {
    if (t.shape[d] != 1 && t.stride[d] != expected) return false;
  }
  return true;
}

bool is_channels_last(const Tensor& t) {
  int64_t expected = t.shape[1];
  if (t.shape[1] != 1 && t.stride[1] != 1) return false;
  for (int d = t.rank - 1; d >= 0; --d) {
    if (d == 1) continue;
    if (t.shape[d] != 1 && t.stride[d] != expected) return false;
    expected *= t.shape[d];
  }
  return true;
}

class Call {
 public:
  Call(PyObject* const* arguments, bool cuda) : arguments_(arguments), cuda_(cuda) {}

  GroupNorm norm{};
  int device = 0;

  Outcome read() {
    Outcome outcome = images();
    if (outcome == Outcome::ready) outcome = numbers();
    if (outcome == Outcome::ready) outcome = values(kWeight, 1, norm.weight);
    if (outcome == Outcome::ready) outcome = values(kBias, 1, norm.bias);
    if (outcome == Outcome::ready) outcome = values(kAdd, 2, norm.add);
    if (outcome == Outcome::ready) outcome = values(kScale, 2, norm.scale);
    if (outcome == Outcome::ready) outcome = values(kShift, 2, norm.shift);
    return outcome;
  }

  int64_t elements() const { return norm.batch * norm.channels * norm.positions; }

 private:
  Outcome images() {
    Tensor x, y;
    if (!view(arguments_[kX], x) || !view(arguments_[kY], y)) return Outcome::error;
    if (x.rank < 2) return fail(PyExc_ValueError, kX, "expected [B, C, ...]");
    if (x.kind != Tensor::f32 && x.kind != Tensor::f16 && x.kind != Tensor::bf16) {
      return fail(PyExc_TypeError, kX, "expected float32, float16 or bfloat16");
    }
    if (x.cuda != cuda_) return fail(PyExc_ValueError, kX, cuda_ ? "not on CUDA" : "not on the CPU");
    device = x.device;
    if (!same_device(y)) return fail(PyExc_ValueError, kY, "not on x's device");
    if (y.kind != x.kind) return fail(PyExc_TypeError, kY, "not of x's dtype");
    if (y.rank != x.rank || !std::equal(x.shape, x.shape + x.rank, y.shape)) {
      return fail(PyExc_ValueError, kY, "not of x's shape");
    }
    norm.x = x.data, norm.y = y.data, norm.dtype = x.dtype();
    norm.batch = x.shape[0], norm.channels = x.shape[1], norm.positions = 1;
    for (int d = 2; d < x.rank; ++d) norm.positions *= x.shape[d];
    if (is_dense(x) && is_dense(y)) return Outcome::ready;
    norm.channels_last = true;
    return is_channels_last(x) && is_channels_last(y) ? Outcome::ready : Outcome::other_layout;
  }

  Outcome numbers() {
    norm.groups = PyLong_AsLongLong(arguments_[kGroups]);
    norm.eps = static_cast<float>(PyFloat_AsDouble(arguments_[kEps]));
    const long act = PyLong_AsLong(arguments_[kAct]);
    if (PyErr_Occurred()) return Outcome::error;
    if (norm.groups < 1 || norm.channels % norm.groups != 0) {
      return fail(PyExc_ValueError, kGroups, "expected a divisor of the channels");
    }
    if (act < 0 || act > static_cast<long>(Activation::silu)) return fail(PyExc_ValueError, kAct, "expected 0 or 1");
    norm.act = static_cast<Activation>(act);
    return Outcome::ready;
  }

  // [C] where rank is 1, [B, C] where it is 2.
  Outcome values(int argument, int rank, ChannelValues& to) {
    if (arguments_[argument] == Py_None) return Outcome::ready;
    Tensor t;
    if (!view(arguments_[argument], t)) return Outcome::error;
    if (!t.floating()) return fail(PyExc_TypeError, argument, "expected float32, float64, float16 or bfloat16");
    if (!same_device(t)) return fail(PyExc_ValueError, argument, "not on x's device");
    const bool fits = t.rank == rank && t.shape[rank - 1] == norm.channels && (rank == 1 || t.shape[0] == norm.batch);
    if (!fits) return fail(PyExc_ValueError, argument, rank == 1 ? "expected [C]" : "expected [B, C]");
    if (t.stride[rank - 1] != 1 && norm.channels > 1) return Outcome::other_layout;
    to = {t.data, t.dtype(), rank == 1 ? 0 : t.stride[0]};
    return Outcome::ready;
  }

  bool same_device(const Tensor& t) const { return t.cuda == cuda_ && t.device == device; }

  PyObject* const* arguments_;
  const bool cuda_;
};

bool run_cpu(const Call& call) {
  const auto kernel = [&](int threads) { cpu::group_norm(call.norm, threads); };
  return on_cpu(cpu::useful_threads(call.norm), call.elements() < kBrief, kernel);
}

#ifdef FASTDIFF_CUDA
bool run_cuda(const Call& call) {
#ifdef FASTDIFF_CUDA_GROUP_NORM
  const int64_t bytes = cuda::group_norm_workspace(call.norm, call.device);
  Tensor workspace{};
  PyObject* held = nullptr;
  if (bytes > 0) {
    held = PyObject_CallFunction(workspace_of, "Li", static_cast<long long>(bytes), call.device);
    if (held == nullptr || !view(held, workspace)) return false;
  }
  const bool done = on_device("group_norm", call.device, [&](void* stream) {
    return cuda::group_norm(call.norm, workspace.data, bytes, stream);
  });
  Py_XDECREF(held);  // torch gives its memory out again only to later work of the stream
  return done;
#else
  return on_device("group_norm", call.device, [](void*) { return "this build has no such kernel"; });
#endif
}
#endif

template <bool kCuda>
PyObject* run(PyObject* const* arguments, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "group_norm: expected %d positional arguments, got %zd", kArguments, count);
    return nullptr;
  }
  Call call(arguments, kCuda);
  const Outcome outcome = call.read();
  if (outcome == Outcome::error) return nullptr;
  if (outcome == Outcome::other_layout) Py_RETURN_FALSE;
  if (call.elements() == 0) Py_RETURN_TRUE;
#ifdef FASTDIFF_CUDA
  const bool done = kCuda ? run_cuda(call) : run_cpu(call);
#else
  const bool done = run_cpu(call);
#endif
  if (!done) return nullptr;
  Py_RETURN_TRUE;
}

}  // namespace

void bind_group_norm(PyObject* workspace) { workspace_of = Py_NewRef(workspace); }

PyObject* group_norm_cpu(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return run<false>(arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* group_norm_cuda(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return run<true>(arguments, count);
}
#endif

}  // namespace fastdiff
