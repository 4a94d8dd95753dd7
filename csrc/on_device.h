// The frame of every launch: the tensors' device, torch's stream, errors as Python exceptions.
#pragma once

#ifdef FASTDIFF_CUDA
#include <cuda_runtime_api.h>

#include "tensor.h"

namespace fastdiff {

// launch(stream) returns null or what went wrong; then false, with a Python error set.
template <class Launch>
bool on_device(const char* op, int device, Launch launch) {
  void* stream = nullptr;
  if (!torch_stream(device, &stream)) return false;
  int before = device;
  cudaGetDevice(&before);
  if (before != device) cudaSetDevice(device);
  const char* error = launch(stream);
  if (before != device) cudaSetDevice(before);
  if (error != nullptr) PyErr_Format(PyExc_RuntimeError, "fastdiff.%s on CUDA: %s", op, error);
  return error == nullptr;
}

}  // namespace fastdiff
#endif
