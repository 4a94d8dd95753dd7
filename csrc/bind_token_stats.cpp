// token_stats for Python.
#include <algorithm>

#include "arguments.h"
#include "bind.h"
#include "cpu/token_stats.h"
#include "cuda/token_stats.h"
#include "op_entry.h"
#include "token_stats.h"

namespace fastdiff {
namespace {

enum {
  kLogitsAt, kUncond, kCurrent, kPositions, kSeeds, kIndex, kTemperature, kGuidance, kShift, kTopK, kTopP, kExclude,
  kNumbersAt, kTokensAt, kCount
};
constexpr const char* kNames[] = {"logits", "logits_uncond", "current",       "positions", "seeds",
                                  "index",  "temperature",   "guidance",      "current_shift", "top_k",
                                  "top_p",  "exclude",       "numbers",       "tokens"};

PyObject* workspace_of;

class TokenStatsCall : public Arguments {
 public:
  static constexpr const char* kName = "token_stats";
  static constexpr int kArguments = kCount;
  static constexpr bool kMayBeBrief = true;

  TokenStatsCall(PyObject* const* arguments, bool cuda) : Arguments(arguments, kNames, cuda) {}

  bool read() {
    read_logits();
    const int64_t batch = stats_.batch, length = stats_.length;
    stats_.current = read_array<int64_t>(kCurrent, Tensor::i64, {batch, length});
    stats_.positions = read_array<int64_t>(kPositions, Tensor::i64, {batch, length});
    stats_.seeds = read_array<int64_t>(kSeeds, Tensor::i64, {batch});
    stats_.index = read_array<int64_t>(kIndex, Tensor::i64, {batch});
    stats_.temperature = read_array<double>(kTemperature, Tensor::f64, {batch});
    stats_.guidance = read_array<double>(kGuidance, Tensor::f64, {batch});
    stats_.shift = read_array<double>(kShift, Tensor::f64, {batch});
    require(!stats_.temperature || stats_.seeds, PyExc_ValueError, kSeeds, "expected beside temperature");
    require(!stats_.uncond.data || stats_.guidance, PyExc_ValueError, kGuidance, "expected beside logits_uncond");
    require(!stats_.shift || stats_.current, PyExc_ValueError, kCurrent, "expected beside current_shift");
    read_filters();
    stats_.numbers = read_array<float>(kNumbersAt, Tensor::f32, {kTokenNumbers, batch, length});
    stats_.tokens = read_array<int64_t>(kTokensAt, Tensor::i64, {kTokenResults, batch, length});
    require(stats_.numbers || elements() == 0, PyExc_ValueError, kNumbersAt, "expected a tensor");
    require(stats_.tokens || elements() == 0, PyExc_ValueError, kTokensAt, "expected a tensor");
    return true;
  }

  int64_t elements() const { return stats_.batch * stats_.length * stats_.vocabulary; }
  int useful_threads() const { return cpu::useful_threads(stats_); }
  void run(int threads) const { cpu::token_stats(stats_, threads); }
  PyObject* done() const { Py_RETURN_NONE; }
  PyObject* declined(PyObject*) const { Py_RETURN_NONE; }

  const char* launch(void* stream) const {
    const int64_t bytes = cuda::token_stats_workspace(stats_);
    // Freed as soon as the kernels are launched: torch gives its memory out again only to later work of the stream.
    const Owned workspace(PyObject_CallFunction(workspace_of, "Li", static_cast<long long>(bytes), device()));
    Tensor memory;
    view(workspace.get(), memory);
    return cuda::token_stats(stats_, memory.data, stream);
  }

 private:
  void read_logits() {
    Tensor logits;
    read_float32_or_half(kLogitsAt, logits);
    set_device(kLogitsAt, logits);
    require(logits.rank == 3 && logits.shape[2] >= 1, PyExc_ValueError, kLogitsAt, "expected [B, L, V] with V >= 1");
    stats_.batch = logits.shape[0], stats_.length = logits.shape[1], stats_.vocabulary = logits.shape[2];
    require(stats_.vocabulary <= INT32_MAX, PyExc_ValueError, kLogitsAt, "expected V < 2^31");
    stats_.dtype = logits.dtype();
    stats_.logits = rows_of(kLogitsAt, logits);
    if (!given(kUncond)) return;
    Tensor uncond;
    read_float32_or_half(kUncond, uncond);
    const bool alike = uncond.kind == logits.kind && uncond.rank == 3 && on_device(uncond) &&
                       std::equal(logits.shape, logits.shape + 3, uncond.shape);
    require(alike, PyExc_ValueError, kUncond, "not like logits");
    stats_.uncond = rows_of(kUncond, uncond);
  }

  Logits rows_of(int argument, const Tensor& t) const {
    require(t.stride[2] == 1 || t.shape[2] == 1, PyExc_ValueError, argument, "a row's logits are no neighbours");
    return {t.data, {t.stride[0], t.stride[1]}};
  }

  // Null where the argument is None.
  template <class T>
  T* read_array(int argument, Tensor::Kind kind, std::initializer_list<int64_t> shape) const {
    if (!given(argument)) return nullptr;
    Tensor t;
    view(object(argument), t);
    require(t.kind == kind, PyExc_TypeError, argument, "not of the kernel's dtype");
    require(on_device(t), PyExc_ValueError, argument, "not on the logits' device");
    const bool fits = t.rank == static_cast<int>(shape.size()) && std::equal(shape.begin(), shape.end(), t.shape);
    require(fits, PyExc_ValueError, argument, "of another shape than the logits' rows");
    int64_t expected = 1;
    for (int d = t.rank - 1; d >= 0; expected *= t.shape[d--]) {
      require(t.shape[d] <= 1 || t.stride[d] == expected, PyExc_ValueError, argument, "not contiguous");
    }
    return static_cast<T*>(t.data);
  }

  void read_filters() {
    stats_.top_k = PyLong_AsLongLong(object(kTopK));
    stats_.top_p = PyFloat_AsDouble(object(kTopP));
    if (PyErr_Occurred()) throw PythonError();
    require(stats_.top_k >= 0, PyExc_ValueError, kTopK, "expected a number >= 0");
    require(stats_.top_p > 0, PyExc_ValueError, kTopP, "expected a number > 0");
    if (!given(kExclude)) return;
    PyObject* list = object(kExclude);
    require(PyList_Check(list) || PyTuple_Check(list), PyExc_TypeError, kExclude, "expected a list");
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
    require(count <= kMaxExcluded, PyExc_ValueError, kExclude, "expected at most 4");
    stats_.excluded = static_cast<int32_t>(count);
    for (Py_ssize_t k = 0; k < count; ++k) {
      stats_.exclude[k] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(list, k));
      if (PyErr_Occurred()) throw PythonError();
    }
  }

  TokenStats stats_{};
};

}  // namespace

void bind_token_stats(PyObject* workspace) { workspace_of = Py_NewRef(workspace); }

PyObject* token_stats_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<TokenStatsCall, Target::cpu>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* token_stats_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<TokenStatsCall, Target::cuda>(module, arguments, count);
}
#endif

}  // namespace fastdiff
