// Compiles where csrc/dlpack.h has the layout of the DLPack header that torch ships.
#include <ATen/dlpack.h>

#include "../csrc/dlpack.h"

using namespace fastdiff::dlpack;

#define SAME(Ours, our, Theirs, their)                       \
  static_assert(offsetof(Ours, our) == offsetof(Theirs, their) && \
                sizeof(Ours::our) == sizeof(Theirs::their))

static_assert(sizeof(Tensor) == sizeof(DLTensor));
SAME(Tensor, data, DLTensor, data);
SAME(Tensor, device_type, DLTensor, device.device_type);
SAME(Tensor, device_id, DLTensor, device.device_id);
SAME(Tensor, ndim, DLTensor, ndim);
SAME(Tensor, code, DLTensor, dtype.code);
SAME(Tensor, bits, DLTensor, dtype.bits);
SAME(Tensor, lanes, DLTensor, dtype.lanes);
SAME(Tensor, shape, DLTensor, shape);
SAME(Tensor, strides, DLTensor, strides);
SAME(Tensor, byte_offset, DLTensor, byte_offset);

static_assert(sizeof(Exchange) == sizeof(DLPackExchangeAPI));
SAME(Exchange, major, DLPackExchangeAPI, header.version.major);
SAME(Exchange, minor, DLPackExchangeAPI, header.version.minor);
SAME(Exchange, previous, DLPackExchangeAPI, header.prev_api);
SAME(Exchange, from_object, DLPackExchangeAPI, dltensor_from_py_object_no_sync);
SAME(Exchange, current_stream, DLPackExchangeAPI, current_work_stream);

static_assert(int{kCPU} == kDLCPU && int{kCUDA} == kDLCUDA);
static_assert(int{kInt} == kDLInt && int{kFloat} == kDLFloat && int{kBFloat} == kDLBfloat);
