// What linear.cc and linear_level.cc have in common.
#ifndef NATIVE_KERNELS_LINEAR_IMPL_H_
#define NATIVE_KERNELS_LINEAR_IMPL_H_

#include <cstdint>

#include "native/kernels/linear.h"

namespace sax::kernels {

// A product whose sizes have been checked, and where its activations are packed to.
struct LinearJob {
  const Linear* linear;
  int unit_depth;
  uint32_t* packed;  // rows x unit_depth units
  float* row_scale;  // for kInt8
};

// By level.
namespace portable {
void RunLinear(const LinearJob& job, TaskRunner* runner);
}
namespace avx2 {
void RunLinear(const LinearJob& job, TaskRunner* runner);
}
namespace avx512 {
void RunLinear(const LinearJob& job, TaskRunner* runner);
}
namespace avx512_bf16 {
void RunLinear(const LinearJob& job, TaskRunner* runner);
}

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LINEAR_IMPL_H_
