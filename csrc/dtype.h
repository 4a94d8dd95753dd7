// What an element is.
#pragma once

#include <cstdint>

namespace fastdiff {

enum class DType : int32_t { f32, f64, f16, bf16 };

}  // namespace fastdiff
