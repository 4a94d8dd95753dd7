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

bool check_rank(Py_ssize_t rank) {
  if (rank <= kMaxRank) return true;
  PyErr_Format(PyExc_ValueError, "expected a tensor of at most %d dimensions, got %zd", kMaxRank, rank);
  return false;
}

bool view_by_exchange(PyObject* object, Tensor& out) {
  dlpack::Tensor t;
  if (exchange->from_object(object, &t) != 0) return false;
  if (!check_rank(t.ndim)) return false;
  out.data = static_cast<char*>(t.data) + t.byte_offset;
  out.kind = kind_of(t);
  out.cuda = t.device_type == dlpack::kCUDA;
  out.device = t.device_id;
  out.rank = t.ndim;
  std::memcpy(out.shape, t.shape, sizeof(int64_t) * t.ndim);
  std::memcpy(out.stride, t.strides, sizeof(int64_t) * t.ndim);
  return true;
}

// A new reference, dropped at the end of the scope.
struct Owned {
  PyObject* object;
  explicit Owned(PyObject* o) : object(o) {}
  Owned(const Owned&) = delete;
  ~Owned() { Py_XDECREF(object); }
};

bool read_ints(PyObject* tuple, int64_t* to) {
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(tuple); ++k) to[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, k));
  return PyErr_Occurred() == nullptr;
}

PyObject* attribute(PyObject* object, const char* name, PyObject*& interned) {
  if (interned == nullptr) interned = PyUnicode_InternFromString(name);
  return PyObject_GetAttr(object, interned);
}

PyObject* method(PyObject* object, const char* name, PyObject*& interned) {
  if (interned == nullptr) interned = PyUnicode_InternFromString(name);
  return PyObject_CallMethodNoArgs(object, interned);
}

bool view_by_attributes(PyObject* object, Tensor& out) {
  static PyObject* names[6];
  const Owned shape(attribute(object, "shape", names[0]));
  const Owned stride(method(object, "stride", names[1]));
  const Owned data(method(object, "data_ptr", names[2]));
  const Owned dtype(attribute(object, "dtype", names[3]));
  const Owned cuda(attribute(object, "is_cuda", names[4]));
  const Owned device(method(object, "get_device", names[5]));
  if (PyErr_Occurred()) return false;
  if (!check_rank(PyTuple_GET_SIZE(shape.object))) return false;
  out.data = PyLong_AsVoidPtr(data.object);
  out.cuda = cuda.object == Py_True;
  out.device = out.cuda ? static_cast<int>(PyLong_AsLong(device.object)) : 0;
  out.rank = static_cast<int>(PyTuple_GET_SIZE(shape.object));
  PyObject* kind = PyDict_GetItemWithError(dtype_kinds, dtype.object);
  out.kind = kind ? static_cast<Tensor::Kind>(PyLong_AsLong(kind)) : Tensor::other;
  return read_ints(shape.object, out.shape) && read_ints(stride.object, out.stride);
}

}  // namespace

void bind_torch(PyObject* type, PyObject* kinds, PyObject* thread_count, PyObject* stream, bool use_exchange) {
  tensor_type = Py_NewRef(type);
  dtype_kinds = Py_NewRef(kinds);
  thread_count_of = Py_NewRef(thread_count);
  stream_of = Py_NewRef(stream);
  exchange = nullptr;
  if (!use_exchange) return;
  const Owned capsule(PyObject_GetAttrString(type, "__dlpack_c_exchange_api__"));
  if (capsule.object == nullptr || !PyCapsule_IsValid(capsule.object, "dlpack_exchange_api")) {
    PyErr_Clear();
    return;
  }
  auto* api = static_cast<dlpack::Exchange*>(PyCapsule_GetPointer(capsule.object, "dlpack_exchange_api"));
  while (api != nullptr && api->major != 1) api = api->previous;
  if (api != nullptr && api->from_object != nullptr) exchange = api;
}

bool view(PyObject* object, Tensor& out) {
  if (!PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(tensor_type))) {
    PyErr_Format(PyExc_TypeError, "expected a torch.Tensor, got %s", Py_TYPE(object)->tp_name);
    return false;
  }
  return exchange ? view_by_exchange(object, out) : view_by_attributes(object, out);
}

int torch_threads() {
  const Owned count(PyObject_CallNoArgs(thread_count_of));
  return count.object == nullptr ? -1 : static_cast<int>(PyLong_AsLong(count.object));
}

bool torch_stream(int device, void** stream) {
  if (exchange && exchange->current_stream(dlpack::kCUDA, device, stream) == 0) return true;
  const Owned handle(PyObject_CallFunction(stream_of, "i", device));
  if (handle.object == nullptr) return false;
  *stream = PyLong_AsVoidPtr(handle.object);
  return PyErr_Occurred() == nullptr;
}

}  // namespace fastdiff
