// Sums of up to twelve rows of packed activations times a panel of weights, in registers of 512
// bits (linear_wide.h) or narrower ones (linear_narrow.h). Both have
//
//   MultiplyRows<Unit, kRows>: sums[row][32] (+)= activations x [depth][kRows] times weights
//   w [depth][32], of floats
//   MultiplyGroups<kRows>: the same of integers, group by group
#ifndef NATIVE_KERNELS_LINEAR_MULTIPLY_H_
#define NATIVE_KERNELS_LINEAR_MULTIPLY_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/linear_impl.h"
#include "native/kernels/simd.h"
#ifdef __AVX512F__
#include "native/kernels/linear_wide.h"
#else
#include "native/kernels/linear_narrow.h"
#endif

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

constexpr int kMaxRows = 12;

template <int kRows>
SAX_INLINE constexpr auto KernelOf(Int8Unit) {
  return MultiplyGroups<kRows>;
}
template <int kRows, class Unit>
SAX_INLINE constexpr auto KernelOf(Unit) {
  return MultiplyRows<Unit, kRows>;
}

template <class Unit>
void Multiply(int rows, const uint32_t* x, const uint32_t* w, int depth, const Groups& groups,
              float* sums, bool first) {
  using Kernel = void (*)(const uint32_t*, const uint32_t*, int, const Groups&, float*, bool);
  static constexpr Kernel kKernels[kMaxRows] = {
      KernelOf<1>(Unit{}), KernelOf<2>(Unit{}),  KernelOf<3>(Unit{}),  KernelOf<4>(Unit{}),
      KernelOf<5>(Unit{}), KernelOf<6>(Unit{}),  KernelOf<7>(Unit{}),  KernelOf<8>(Unit{}),
      KernelOf<9>(Unit{}), KernelOf<10>(Unit{}), KernelOf<11>(Unit{}), KernelOf<12>(Unit{}),
  };
  kKernels[rows - 1](x, w, depth, groups, sums, first);
}

}  // namespace
}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LINEAR_MULTIPLY_H_
