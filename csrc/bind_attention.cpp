// attention for Python.
#include <algorithm>

#include "arguments.h"
#include "attention.h"
#include "bind.h"
#include "cpu/attention.h"
#include "cuda/attention.h"
#include "op_entry.h"

namespace fastdiff {
namespace {

enum { kQ, kK, kV, kOut, kScale, kCount };
constexpr const char* kNames[] = {"q", "k", "v", "out", "scale"};

class AttentionCall : public Arguments {
 public:
  static constexpr const char* kName = "attention";
  static constexpr int kArguments = kCount;
  static constexpr bool kMayBeBrief = false;  // its time goes with the square of the elements

  AttentionCall(PyObject* const* arguments, bool cuda) : Arguments(arguments, kNames, cuda) {}

  bool read() {
    Tensor q, k, v, out;
    read_heads(kQ, q);
    set_device(kQ, q);
    attention_.dtype = q.dtype();
    attention_.batch = q.shape[0], attention_.heads = q.shape[1], attention_.queries = q.shape[2];
    attention_.head_size = q.shape[3];
    read_heads(kK, k);
    attention_.keys = k.shape[2];
    require_like_q(kK, k, attention_.keys);
    require(attention_.keys > 0, PyExc_ValueError, kK, "expected at least one key");
    read_heads(kV, v), require_like_q(kV, v, attention_.keys);
    read_heads(kOut, out), require_like_q(kOut, out, attention_.queries);
    attention_.q = heads(q), attention_.k = heads(k), attention_.v = heads(v), attention_.out = heads(out);
    const double scale = PyFloat_AsDouble(object(kScale));
    if (scale == -1 && PyErr_Occurred()) throw PythonError();
    attention_.scale = static_cast<float>(scale);
    return true;
  }

  int64_t elements() const { return attention_.batch * attention_.heads * attention_.queries * attention_.head_size; }
  int useful_threads() const { return cpu::useful_threads(attention_); }
  void run(int threads) const { cpu::attention(attention_, threads); }
  const char* launch(void* stream) const { return cuda::attention(attention_, stream); }
  PyObject* done() const { Py_RETURN_NONE; }
  PyObject* declined(PyObject*) const { Py_RETURN_NONE; }  // read() takes everything or fails

 private:
  void read_heads(int argument, Tensor& to) const {
    read_float32_or_half(argument, to);
    require(to.rank == 4, PyExc_ValueError, argument, "expected [B, H, N, D]");
    const bool neighbours = to.stride[3] == 1 || to.shape[3] <= 1;
    require(neighbours, PyExc_ValueError, argument, "expected neighbouring elements along D");
  }

  void require_like_q(int argument, const Tensor& t, int64_t rows) const {
    const int64_t shape[] = {attention_.batch, attention_.heads, rows, attention_.head_size};
    require(std::equal(shape, shape + 4, t.shape), PyExc_ValueError, argument, "not of q's or k's shape");
    require(t.dtype() == attention_.dtype, PyExc_TypeError, argument, "not of q's dtype");
    require(on_device(t), PyExc_ValueError, argument, "not on q's device");
  }

  static Heads heads(const Tensor& t) { return {t.data, t.stride[0], t.stride[1], t.stride[2]}; }

  Attention attention_{};
};

}  // namespace

PyObject* attention_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<AttentionCall, Target::cpu>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* attention_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<AttentionCall, Target::cuda>(module, arguments, count);
}
#endif

}  // namespace fastdiff
