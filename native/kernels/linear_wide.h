// See linear_multiply.h. Of 32 registers, 24 hold the sums of twelve rows, two weights, and one a
// factor.
#ifndef NATIVE_KERNELS_LINEAR_WIDE_H_
#define NATIVE_KERNELS_LINEAR_WIDE_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/linear_impl.h"
#include "native/kernels/pack.h"
#include "native/kernels/simd.h"

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

// Units ahead of which weights are fetched.
constexpr int kAhead = 32;

// Few rows: several sums for each, or they would wait for one another.
template <int kRows>
constexpr int kChainsOf = kRows == 1   ? 4
                          : kRows == 2 ? 2
                                       : 1;

template <class Unit, int kRows>
__attribute__((noinline)) void MultiplyRows(const uint32_t* x, const uint32_t* w, int depth,
                                            const Groups&, float* sums, bool first) {
  constexpr int kChains = kChainsOf<kRows>;
  F32 acc[kChains][kRows][2];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const bool fresh = first || c > 0;
      acc[c][r][0] = fresh ? F32{} : Load(sums + r * kPanel);
      acc[c][r][1] = fresh ? F32{} : Load(sums + r * kPanel + kLanes);
    }
  }
  for (int k = 0; k < depth; k += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const uint32_t* const at = w + static_cast<size_t>(k + c) * kPanel;
      if (kRows <= 8) {
        Prefetch(at + kAhead * kPanel);
        Prefetch(at + kAhead * kPanel + kLanes);
      }
      const U32 w0 = LoadAs<U32>(at), w1 = LoadAs<U32>(at + kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const uint32_t value = x[(k + c) * kRows + r];
        acc[c][r][0] = Dot(Unit{}, acc[c][r][0], w0, value);
        acc[c][r][1] = Dot(Unit{}, acc[c][r][1], w1, value);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      F32 sum = acc[0][r][half];
#pragma GCC unroll 4
      for (int c = 1; c < kChains; ++c) sum = sum + acc[c][r][half];
      Store(sums + r * kPanel + half * kLanes, sum);
    }
  }
}

template <int kRows>
__attribute__((noinline)) void MultiplyGroups(const uint32_t* x, const uint32_t* w, int depth,
                                              const Groups& groups, float* sums, bool first) {
  constexpr int kChains = kChainsOf<kRows>;
  for (int k = 0; k < depth; k += kGroupUnits) {
    const int group = k / kGroupUnits, end = Min(k + kGroupUnits, depth);
    F32 acc[kChains][kRows][2];
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const I32 start = (c > 0 ? 0 : groups.start[r * groups.stride + group]) - I32{};
        acc[c][r][0] = acc[c][r][1] = (F32)start;
      }
    }
    for (int unit = k; unit < end; unit += kChains) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) {
        const uint32_t* const at = w + static_cast<size_t>(unit + c) * kPanel;
        if (kRows <= 8) {
          Prefetch(at + kAhead * kPanel);
          Prefetch(at + kAhead * kPanel + kLanes);
        }
        const U32 w0 = LoadAs<U32>(at), w1 = LoadAs<U32>(at + kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const uint32_t value = x[(unit + c) * kRows + r];
          acc[c][r][0] = Dot(Int8Unit{}, acc[c][r][0], w0, value);
          acc[c][r][1] = Dot(Int8Unit{}, acc[c][r][1], w1, value);
        }
      }
    }
    const bool fresh = first && k == 0;
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const float scale = groups.scale[r * groups.stride + group];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        I32 sum = (I32)acc[0][r][half];
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sum += (I32)acc[c][r][half];
        float* const to = sums + r * kPanel + half * kLanes;
        const F32 before = fresh ? F32{} : Load(to);
        Store(to, __builtin_convertvector(sum, F32) * scale + before);
      }
    }
  }
}

}  // namespace
}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LINEAR_WIDE_H_
