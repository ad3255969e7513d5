// See linear_multiply.h. Rows and columns beyond a tile of narrow.h take their turns.
#ifndef NATIVE_KERNELS_LINEAR_NARROW_H_
#define NATIVE_KERNELS_LINEAR_NARROW_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/linear_impl.h"
#include "native/kernels/narrow.h"
#include "native/kernels/pack.h"

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

template <class Unit, int kRows, int kFirst = 0>
SAX_INLINE void MultiplyColumns(const uint32_t* x, const uint32_t* w, int depth, float* sums,
                                bool first) {
  constexpr int kTile = TileRows(kRows, kFirst);
  NarrowF32 tile[kTile][TileVectors(kRows)] = {};
  float* const own = sums + kFirst * kPanel;
  if (!first) LoadTile(own, kPanel, tile);
  MultiplyTile<Unit>({x + kFirst, 1, kRows}, w, kPanel, depth, tile);
  StoreTile(own, kPanel, tile);
  if constexpr (kFirst + kTile < kRows) {
    MultiplyColumns<Unit, kRows, kFirst + kTile>(x, w, depth, sums, first);
  }
}

template <class Unit, int kRows>
__attribute__((noinline)) void MultiplyRows(const uint32_t* x, const uint32_t* w, int depth,
                                            const Groups&, float* sums, bool first) {
  for (int column = 0; column < kPanel; column += TileVectors(kRows) * kWidth) {
    MultiplyColumns<Unit, kRows>(x, w + column, depth, sums + column, first);
  }
}

template <int kRows, int kFirst = 0>
SAX_INLINE void MultiplyGroup(const uint32_t* x, const uint32_t* w, int depth, const Groups& groups,
                              int group, float* sums, bool first) {
  constexpr int kTile = TileRows(kRows, kFirst), kVectors = TileVectors(kRows);
  NarrowI32 tile[kTile][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kTile; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      tile[r][v] = groups.start[(kFirst + r) * groups.stride + group] - NarrowI32{};
    }
  }
  MultiplyTile<Int8Unit>({x + kFirst, 1, kRows}, w, kPanel, depth, tile);
#pragma GCC unroll 4
  for (int r = 0; r < kTile; ++r) {
    const float scale = groups.scale[(kFirst + r) * groups.stride + group];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* const to = sums + (kFirst + r) * kPanel + v * kWidth;
      const NarrowF32 before = first ? NarrowF32{} : LoadAs<NarrowF32>(to);
      StoreAs(to, __builtin_convertvector(tile[r][v], NarrowF32) * scale + before);
    }
  }
  if constexpr (kFirst + kTile < kRows) {
    MultiplyGroup<kRows, kFirst + kTile>(x, w, depth, groups, group, sums, first);
  }
}

template <int kRows>
__attribute__((noinline)) void MultiplyGroups(const uint32_t* x, const uint32_t* w, int depth,
                                              const Groups& groups, float* sums, bool first) {
  for (int k = 0; k < depth; k += kGroupUnits) {
    const int taken = Min(kGroupUnits, depth - k);
    for (int column = 0; column < kPanel; column += TileVectors(kRows) * kWidth) {
      MultiplyGroup<kRows>(x + static_cast<size_t>(k) * kRows,
                           w + static_cast<size_t>(k) * kPanel + column, taken, groups,
                           k / kGroupUnits, sums + column, first && k == 0);
    }
  }
}

}  // namespace
}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LINEAR_NARROW_H_
