// The part of DLPack 1.x (github.com/dmlc/dlpack) that reads a tensor through `Tensor.__dlpack_c_exchange_api__`.
#pragma once

#include <cstdint>

namespace fastdiff::dlpack {

enum Device : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3 };
enum Code : uint8_t { kInt = 0, kFloat = 2, kBFloat = 4 };

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct Exchange {
  uint32_t major, minor;
  Exchange* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*from_object)(void* object, Tensor* out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace fastdiff::dlpack
