// gram for Python.
#include <algorithm>

#include "arguments.h"
#include "bind.h"
#include "cpu/gram.h"
#include "cuda/gram.h"
#include "gram.h"
#include "layout.h"
#include "op_entry.h"

namespace fastdiff {
namespace {

enum { kBasis, kTensors, kOut, kCount };
constexpr const char* kNames[] = {"basis", "tensors", "out"};

PyObject* workspace_of;

class GramCall : public Arguments {
 public:
  static constexpr const char* kName = "gram";
  static constexpr int kArguments = kCount;
  static constexpr bool kMayBeBrief = true;

  GramCall(PyObject* const* arguments, bool cuda) : Arguments(arguments, kNames, cuda), cuda_(cuda) {}

  // False where the tensors have too many dimensions that do not merge.
  bool read() {
    read_tensors();
    read_basis();
    read_out();
    Layout layout;
    if (!lay_out(tensors_, operands_, count_, false, tensors_, layout)) return false;
    gram_.dims = layout.dims;
    std::copy(layout.size, layout.size + layout.dims, gram_.size);
    return true;
  }

  // With a sample's matrix, which is written where a sample has no elements, too.
  int64_t elements() const { return gram_.size[0] * (1 + elements_per_sample(gram_)); }
  int useful_threads() const { return cpu::useful_threads(gram_); }
  void run(int threads) const { cpu::gram(gram_, threads); }
  PyObject* done() const { Py_RETURN_NONE; }

  // The same call on contiguous tensors, whose dimensions merge.
  PyObject* declined(PyObject* module) const {
    const Owned run(PyObject_GetAttrString(module, cuda_ ? "gram_cuda" : "gram_cpu"));
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(object(kTensors));
    const Owned contiguous(PyList_New(count));
    for (Py_ssize_t j = 0; j < count; ++j) {
      PyObject* tensor = PySequence_Fast_GET_ITEM(object(kTensors), j);
      PyObject* made = tensor == Py_None ? Py_NewRef(tensor) : PyObject_CallMethod(tensor, "contiguous", nullptr);
      if (made == nullptr) throw PythonError();
      PyList_SET_ITEM(contiguous.get(), j, made);
    }
    return PyObject_CallFunctionObjArgs(run.get(), object(kBasis), contiguous.get(), object(kOut), nullptr);
  }

  const char* launch(void* stream) const {
    const int64_t bytes = cuda::gram_workspace(gram_);
    // Freed as soon as the kernels are launched: torch gives its memory out again only to later work of the stream.
    const Owned workspace(PyObject_CallFunction(workspace_of, "Li", static_cast<long long>(bytes), device()));
    Tensor memory;
    view(workspace.get(), memory);
    return cuda::gram(gram_, memory.data, stream);
  }

 private:
  void read_tensors() {
    PyObject* list = object(kTensors);
    require(PyList_Check(list) || PyTuple_Check(list), PyExc_TypeError, kTensors, "expected a list");
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(list);
    require(size >= 1 && size <= kMaxTensors, PyExc_ValueError, kTensors, "expected 1 to 6");
    gram_.tensors = static_cast<int32_t>(size);
    for (int j = 0; j < gram_.tensors; ++j) {
      PyObject* object = PySequence_Fast_GET_ITEM(list, j);
      if (object != Py_None) read_tensor(object, gram_.tensor[j]);
    }
    require(count_ > 0, PyExc_ValueError, kTensors, "expected at least one that is not None");
  }

  void read_tensor(PyObject* object, Operand& to) {
    Tensor& tensor = tensors_[count_];
    const Tensor& first = tensors_[0];
    read_floating(kTensors, object, tensor);
    if (count_ == 0) {
      set_device(kTensors, tensor);
      require(tensor.rank > 0, PyExc_ValueError, kTensors, "expected a batch dimension");
    }
    require(on_device(tensor), PyExc_ValueError, kTensors, "on different devices");
    const bool alike = tensor.rank == first.rank && std::equal(tensor.shape, tensor.shape + tensor.rank, first.shape);
    require(alike, PyExc_ValueError, kTensors, "of different shapes");
    to.data = tensor.data, to.dtype = tensor.dtype();
    gram_.wide = gram_.wide || tensor.kind == Tensor::f64;
    operands_[count_++] = &to;
  }

  void read_basis() {
    Tensor basis;
    view(object(kBasis), basis);
    const bool fits = basis.kind == Tensor::f64 && basis.rank == 2 && basis.shape[1] == gram_.tensors &&
                      basis.shape[0] >= 1 && basis.shape[0] <= kMaxVectors;
    require(fits, PyExc_ValueError, kBasis, "expected [n, k] float64 with n <= 4 and k the number of tensors");
    require(!basis.cuda || on_device(basis), PyExc_ValueError, kBasis, "not on the tensors' device");
    gram_.vectors = static_cast<int32_t>(basis.shape[0]);
    const auto* numbers = static_cast<const double*>(basis.data);
    std::copy(basis.stride, basis.stride + 2, gram_.basis_stride);
    if (basis.cuda) gram_.device_basis = numbers;
    for (int i = 0; i < gram_.vectors && !basis.cuda; ++i) {
      for (int j = 0; j < gram_.tensors; ++j) {
        gram_.basis[i][j] = numbers[i * basis.stride[0] + j * basis.stride[1]];
      }
    }
  }

  void read_out() {
    Tensor out;
    view(object(kOut), out);
    const int64_t size = gram_.vectors + 1, shape[] = {tensors_[0].shape[0], size, size};
    const bool fits = out.kind == Tensor::f64 && on_device(out) && out.rank == 3 && std::equal(shape, shape + 3, out.shape);
    require(fits, PyExc_ValueError, kOut, "expected [B, n + 1, n + 1] float64 on the tensors' device");
    const bool dense = out.stride[2] == 1 && out.stride[1] == size && (shape[0] <= 1 || out.stride[0] == size * size);
    require(dense, PyExc_ValueError, kOut, "not contiguous");
    gram_.out = static_cast<double*>(out.data);
  }

  const bool cuda_;
  int count_ = 0;
  Gram gram_{};
  Tensor tensors_[kMaxTensors];
  Operand* operands_[kMaxTensors];
};

}  // namespace

void bind_gram(PyObject* workspace) { workspace_of = Py_NewRef(workspace); }

PyObject* gram_cpu(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<GramCall, Target::cpu>(module, arguments, count);
}

#ifdef FASTDIFF_CUDA
PyObject* gram_cuda(PyObject* module, PyObject* const* arguments, Py_ssize_t count) {
  return op_entry<GramCall, Target::cuda>(module, arguments, count);
}
#endif

}  // namespace fastdiff
