#include "tensor.h"

#include <cstring>

#include "dlpack.h"

namespace fastdiff {

namespace {

PyObject *tensor_type, *dtype_kinds, *thread_count_of, *stream_of;
dlpack::Exchange* exchange;

Tensor::Kind kind_of(const dlpack::Tensor& t) {
  if (t.lanes != 1) return Tensor::other;
  if (t.code == dlpack::kBFloat && t.bits == 16) return Tensor::bf16;
  if (t.code == dlpack::kInt && t.bits == 64) return Tensor::i64;
  if (t.code != dlpack::kFloat) return Tensor::other;
  return t.bits == 32 ? Tensor::f32 : t.bits == 64 ? Tensor::f64 : t.bits == 16 ? Tensor::f16 : Tensor::other;
}

void check_rank(Py_ssize_t rank) {
  if (rank > kMaxRank) {
    fail(PyExc_ValueError, "expected a tensor of at most %d dimensions, got %zd", kMaxRank, rank);
  }
}

void view_by_exchange(PyObject* object, Tensor& out) {
  dlpack::Tensor t;
  if (exchange->from_object(object, &t) != 0) throw PythonError();
  check_rank(t.ndim);
  out.data = static_cast<char*>(t.data) + t.byte_offset;
  out.kind = kind_of(t);
  out.cuda = t.device_type == dlpack::kCUDA;
  out.device = t.device_id;
  out.rank = t.ndim;
  for (int d = 0; d < t.ndim; ++d) out.shape[d] = t.shape[d], out.stride[d] = t.strides[d];
}

void read_ints(PyObject* tuple, int64_t* to) {
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(tuple); ++k) to[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, k));
  if (PyErr_Occurred()) throw PythonError();
}

// `interned` keeps the name's string between calls.
PyObject* attribute(PyObject* object, const char* name, PyObject*& interned) {
  if (interned == nullptr) interned = PyUnicode_InternFromString(name);
  return PyObject_GetAttr(object, interned);
}

PyObject* method(PyObject* object, const char* name, PyObject*& interned) {
  if (interned == nullptr) interned = PyUnicode_InternFromString(name);
  return PyObject_CallMethodNoArgs(object, interned);
}

void view_by_attributes(PyObject* object, Tensor& out) {
  static PyObject* names[6];
  const Owned shape(attribute(object, "shape", names[0]));
  const Owned stride(method(object, "stride", names[1]));
  const Owned data(method(object, "data_ptr", names[2]));
  const Owned dtype(attribute(object, "dtype", names[3]));
  const Owned cuda(attribute(object, "is_cuda", names[4]));
  const Owned device(method(object, "get_device", names[5]));
  check_rank(PyTuple_GET_SIZE(shape.get()));
  out.data = PyLong_AsVoidPtr(data.get());
  out.cuda = cuda.get() == Py_True;
  out.device = out.cuda ? static_cast<int>(PyLong_AsLong(device.get())) : 0;
  out.rank = static_cast<int>(PyTuple_GET_SIZE(shape.get()));
  PyObject* kind = PyDict_GetItemWithError(dtype_kinds, dtype.get());
  out.kind = kind ? static_cast<Tensor::Kind>(PyLong_AsLong(kind)) : Tensor::other;
  read_ints(shape.get(), out.shape);
  read_ints(stride.get(), out.stride);
}

// Torch's, or null where it has none of a version that is known here.
dlpack::Exchange* find_exchange(PyObject* type) {
  constexpr const char* kCapsule = "dlpack_exchange_api";
  PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  void* pointer = capsule && PyCapsule_IsValid(capsule, kCapsule) ? PyCapsule_GetPointer(capsule, kCapsule) : nullptr;
  Py_XDECREF(capsule);  // torch keeps what it points to
  PyErr_Clear();
  auto* api = static_cast<dlpack::Exchange*>(pointer);
  while (api != nullptr && api->major != 1) api = api->previous;
  return api != nullptr && api->from_object != nullptr ? api : nullptr;
}

}  // namespace

void bind_torch(PyObject* type, PyObject* kinds, PyObject* thread_count, PyObject* stream, bool use_exchange) {
  tensor_type = Py_NewRef(type);
  dtype_kinds = Py_NewRef(kinds);
  thread_count_of = Py_NewRef(thread_count);
  stream_of = Py_NewRef(stream);
  exchange = use_exchange ? find_exchange(type) : nullptr;
}

void view(PyObject* object, Tensor& out) {
  if (!PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(tensor_type))) {
    fail(PyExc_TypeError, "expected a torch.Tensor, got %s", Py_TYPE(object)->tp_name);
  }
  exchange ? view_by_exchange(object, out) : view_by_attributes(object, out);
}

int torch_threads() {
  const Owned count(PyObject_CallNoArgs(thread_count_of));
  const long threads = PyLong_AsLong(count.get());
  if (threads == -1 && PyErr_Occurred()) throw PythonError();
  return static_cast<int>(threads);
}

void* torch_stream(int device) {
  void* stream;
  if (exchange && exchange->current_stream(dlpack::kCUDA, device, &stream) == 0) return stream;
  PyErr_Clear();
  const Owned handle(PyObject_CallFunction(stream_of, "i", device));
  stream = PyLong_AsVoidPtr(handle.get());
  if (PyErr_Occurred()) throw PythonError();
  return stream;
}

}  // namespace fastdiff
