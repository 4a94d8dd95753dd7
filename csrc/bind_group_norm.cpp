// group_norm for Python.
#include <algorithm>

#include "arguments.h"
#include "bind.h"
#include "cpu/group_norm.h"
#include "cuda/group_norm.h"
#include "group_norm.h"
#include "op_entry.h"

namespace fastdiff {
namespace {

enum { kX, kY, kGroups, kWeight, kBias, kEps, kAdd, kScale, kShift, kAct, kCount };
constexpr const char* kNames[] = {"x", "y", "groups", "weight", "bias", "eps", "add", "scale", "shift", "act"};

PyObject* workspace_of;

bool is_contiguous(const Tensor& t) {
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

class GroupNormCall : public Arguments {
 public:
  static constexpr const char* kName = "group_norm";
  static constexpr int kArguments = kCount;
  static constexpr bool kMayBeBrief = true;

  GroupNormCall(PyObject* const* arguments, bool cuda) : Arguments(arguments, kNames, cuda) {}

  bool read() {
    if (!read_images()) return false;
    read_numbers();
    return read_values(kWeight, 1, norm_.weight) && read_values(kBias, 1, norm_.bias) &&
           read_values(kAdd, 2, norm_.add) && read_values(kScale, 2, norm_.scale) &&
           read_values(kShift, 2, norm_.shift);
  }

  int64_t elements() const { return norm_.batch * norm_.channels * norm_.positions; }
  int useful_threads() const { return cpu::useful_threads(norm_); }
  void run(int threads) const { cpu::group_norm(norm_, threads); }
  PyObject* done() const { Py_RETURN_TRUE; }
  PyObject* declined(PyObject*) const { Py_RETURN_FALSE; }

  const char* launch(void* stream) const {
    const int64_t bytes = cuda::group_norm_workspace(norm_, device());
    if (bytes == 0) return cuda::group_norm(norm_, nullptr, 0, stream);
    // Freed as soon as the kernels are launched: torch gives its memory out again only to later work of the stream.
    const Owned workspace(PyObject_CallFunction(workspace_of, "Li", static_cast<long long>(bytes), device()));
    Tensor memory;
    view(workspace.get(), memory);
    return cuda::group_norm(norm_, memory.data, bytes, stream);
  }

 private:
  bool read_images() {
    Tensor x, y;
    read_float32_or_half(kX, x);
    set_device(kX, x);
    require(x.rank >= 2, PyExc_ValueError, kX, "expected [B, C, ...]");
    view(object(kY), y);
    require(on_device(y), PyExc_ValueError, kY, "not on x's device");
    require(y.kind == x.kind, PyExc_TypeError, kY, "not of x's dtype");
    const bool same_shape = y.rank == x.rank && std::equal(x.shape, x.shape + x.rank, y.shape);
    require(same_shape, PyExc_ValueError, kY, "not of x's shape");
    norm_.x = x.data, norm_.y = y.data, norm_.dtype = x.dtype();
    norm_.batch = x.shape[0], norm_.channels = x.shape[1], norm_.positions = 1;
    for (int d = 2; d < x.rank; ++d) norm_.positions *= x.shape[d];
    norm_.channels_last = !(is_contiguous(x) && is_contiguous(y));
    return !norm_.channels_last || (is_channels_last(x) && is_channels_last(y));
  }

  void read_numbers() {
    norm_.groups = PyLong_AsLongLong(object(kGroups));
    norm_.eps = static_cast<float>(PyFloat_AsDouble(object(kEps)));
    const long act = PyLong_AsLong(object(kAct));
    if (PyErr_Occurred()) throw PythonError();
    const bool divides = norm_.groups >= 1 && norm_.channels % norm_.groups == 0;
    require(divides, PyExc_ValueError, kGroups, "expected a divisor of the channels");
    require(act == 0 || act == 1, PyExc_ValueError, kAct, "expected 0 or 1");
    norm_.act = static_cast<Activation>(act);
  }

  // [C] where rank is 1, [B, C] where it is 2. False where its channels are no neighbours.
  bool read_values(int argument, int rank, ChannelValues& to) const {
    if (!given(argument)) return true;
    Tensor t;
    read_floating(argument, t);
    require(on_device(t), PyExc_ValueError, argument, "not on x's device");
    const bool fits = t.rank == rank && t.shape[rank - 1] == norm_.channels && (rank == 1 || t.shape[0] == norm_.batch);
    require(fits, PyExc_ValueError, argument, rank == 1 ? "expected [C]" : "expected [B, C]");
    to = {t.data, t.dtype(), rank == 1 ? 0 : t.stride[0]};
    return t.stride[rank - 1] == 1 || norm_.channels <= 1;
  }

  GroupNorm norm_{};
};

}  // namespace

void bind_group_norm(PyObject* workspace) { workspace_of = Py_NewRef(workspace); }

PyObject* group_norm_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<GroupNormCall, Target::cpu>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* group_norm_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<GroupNormCall, Target::cuda>(module, arguments, count);
}
#endif

}  // namespace fastdiff
