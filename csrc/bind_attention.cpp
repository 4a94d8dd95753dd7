// Python arguments to an Attention. Errors are Python exceptions.
#include <algorithm>

#include "attention.h"
#include "bind.h"
#include "cpu/attention.h"
#include "on_cpu.h"
#include "on_device.h"
#include "tensor.h"

namespace fastdiff {

#ifdef FASTDIFF_CUDA
namespace cuda {
const char* attention(const Attention& attention, void* stream);
}
#endif

namespace {

enum Argument { kQ, kK, kV, kOut, kScale, kArguments };

constexpr const char* kNames[] = {"q", "k", "v", "out"};

struct Call {
  Attention attention{};
  int device = 0;

  bool read(PyObject* const* arguments, bool cuda) {
    Tensor q, k, v, out;
    if (!take(kQ, arguments[kQ], cuda, q)) return false;
    device = q.device;
    attention.dtype = q.dtype();
    attention.batch = q.shape[0], attention.heads = q.shape[1], attention.queries = q.shape[2];
    attention.head_size = q.shape[3];
    if (!take(kK, arguments[kK], cuda, k)) return false;
    attention.keys = k.shape[2];
    if (attention.keys < 1) return fail(PyExc_ValueError, kK, "expected at least one key");
    if (!take(kV, arguments[kV], cuda, v) || !take(kOut, arguments[kOut], cuda, out)) return false;
    attention.q = heads(q), attention.k = heads(k), attention.v = heads(v), attention.out = heads(out);
    const double scale = PyFloat_AsDouble(arguments[kScale]);
    attention.scale = static_cast<float>(scale);
    return scale != -1 || PyErr_Occurred() == nullptr;
  }

  bool empty() const { return attention.batch * attention.heads * attention.queries * attention.head_size == 0; }

 private:
  bool take(int argument, PyObject* object, bool cuda, Tensor& tensor) {
    if (!view(object, tensor)) return false;
    if (tensor.rank != 4) return fail(PyExc_ValueError, argument, "expected [B, H, N, D]");
    if (tensor.kind != Tensor::f32 && tensor.kind != Tensor::f16 && tensor.kind != Tensor::bf16) {
      return fail(PyExc_TypeError, argument, "expected float32, float16 or bfloat16");
    }
    if (tensor.stride[3] != 1 && tensor.shape[3] > 1) {
      return fail(PyExc_ValueError, argument, "expected neighbouring elements along D");
    }
    if (tensor.cuda != cuda) return fail(PyExc_ValueError, argument, cuda ? "not on CUDA" : "not on the CPU");
    if (argument == kQ) return true;
    const int64_t rows = argument == kOut ? attention.queries : argument == kV ? attention.keys : tensor.shape[2];
    const int64_t shape[] = {attention.batch, attention.heads, rows, attention.head_size};
    if (!std::equal(shape, shape + 4, tensor.shape)) return fail(PyExc_ValueError, argument, "not of q's or k's shape");
    if (tensor.dtype() != attention.dtype) return fail(PyExc_TypeError, argument, "not of q's dtype");
    if (tensor.device != device) return fail(PyExc_ValueError, argument, "not on q's device");
    return true;
  }

  static bool fail(PyObject* type, int argument, const char* what) {
    PyErr_Format(type, "%s: %s", kNames[argument], what);
    return false;
  }

  static Heads heads(const Tensor& t) { return {t.data, t.stride[0], t.stride[1], t.stride[2]}; }
};

bool run_cpu(const Call& call) {
  const auto kernel = [&](int threads) { cpu::attention(call.attention, threads); };
  return on_cpu(cpu::useful_threads(call.attention), false, kernel);
}

#ifdef FASTDIFF_CUDA
bool run_cuda(const Call& call) {
  return on_device("attention", call.device, [&](void* stream) { return cuda::attention(call.attention, stream); });
}
#endif

template <bool kCuda>
PyObject* run(PyObject* const* arguments, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "attention: expected %d positional arguments, got %zd", kArguments, count);
    return nullptr;
  }
  Call call;
  if (!call.read(arguments, kCuda)) return nullptr;
  if (call.empty()) Py_RETURN_NONE;
#ifdef FASTDIFF_CUDA
  const bool done = kCuda ? run_cuda(call) : run_cpu(call);
#else
  const bool done = run_cpu(call);
#endif
  if (!done) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace

PyObject* attention_cpu(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return run<false>(arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* attention_cuda(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return run<true>(arguments, count);
}
#endif

}  // namespace fastdiff
