// The part of DLPack 1.x (github.com/dmlc/dlpack) that reads a tensor through `Tensor.__dlpack_c_exchange_api__`. The
// build has no header of DLPack's: the layout is fixed here, and tests/dlpack_layout.cpp holds it to torch's own copy.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdiff::dlpack {

enum Device : int32_t { kCPU = 1, kCUDA = 2 };
enum Code : uint8_t { kInt = 0, kFloat = 2, kBFloat = 4 };

// DLTensor
struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

// DLPackExchangeAPI
struct Exchange {
  uint32_t major, minor;
  Exchange* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*from_object)(void* object, Tensor* out);  // 0, or -1 with a Python error set
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
};

static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, device_type) == 8 && offsetof(Tensor, device_id) == 12 &&
              offsetof(Tensor, ndim) == 16 && offsetof(Tensor, code) == 20 && offsetof(Tensor, bits) == 21 &&
              offsetof(Tensor, lanes) == 22 && offsetof(Tensor, shape) == 24 && offsetof(Tensor, strides) == 32 &&
              offsetof(Tensor, byte_offset) == 40);
static_assert(sizeof(Exchange) == 56 && offsetof(Exchange, previous) == 8 && offsetof(Exchange, from_object) == 40 &&
              offsetof(Exchange, current_stream) == 48);

}  // namespace fastdiff::dlpack
