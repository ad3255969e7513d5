// What linear.cc and linear_level.cc have in common.
#ifndef NATIVE_KERNELS_LINEAR_IMPL_H_
#define NATIVE_KERNELS_LINEAR_IMPL_H_

#include <cstdint>

#include "native/kernels/linear.h"

namespace sax::kernels {

// Units of kInt8 activations that have a scale of their own.
inline constexpr int kGroupUnits = 16;

// A product whose sizes have been checked, and where its activations are packed to.
struct LinearJob {
  const Linear* linear;
  int unit_depth;
  uint32_t* packed;  // rows x unit_depth units
  // For kInt8, rows x groups: what a group's integers are multiplied by, and where sums over it
  // start, as the weights' integers are 128 too large.
  int groups;
  float* scale;
  int32_t* start;
};

// Scales and starts of the groups of a block of rows, `stride` apart from one row to the next.
struct Groups {
  const float* scale;
  const int32_t* start;
  int stride;
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
