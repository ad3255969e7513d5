// Tiles of products for levels whose registers are narrower than simd.h's vectors: GCC keeps such
// vectors in memory. Sixteen registers hold the sums of four rows of two, and what is multiplied.
#ifndef NATIVE_KERNELS_NARROW_H_
#define NATIVE_KERNELS_NARROW_H_

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

#include "native/kernels/simd.h"

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

// A register's numbers of 32 bits.
#ifdef __AVX2__
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float NarrowF32 __attribute__((vector_size(4 * kWidth)));
typedef int32_t NarrowI32 __attribute__((vector_size(4 * kWidth)));
typedef uint32_t NarrowU32 __attribute__((vector_size(4 * kWidth)));
typedef int16_t NarrowI16 __attribute__((vector_size(4 * kWidth)));

// One unit in all places. Not seen through: GCC would take it apart before it is spread, number by
// number.
SAX_INLINE NarrowU32 Spread(uint32_t x) {
  NarrowU32 all = x - NarrowU32{};
#ifdef __SSE2__
  asm("" : "+x"(all));
#endif
  return all;
}

// Units as they are multiplied, and sums of products.
struct Halves {
  NarrowF32 low, high;
};
struct Pairs {
  NarrowI16 even, odd;
};
SAX_INLINE NarrowF32 Weight(F32Unit, NarrowU32 w) { return (NarrowF32)w; }
SAX_INLINE NarrowF32 Factor(F32Unit, NarrowU32 x) { return (NarrowF32)x; }
SAX_INLINE NarrowF32 Add(NarrowF32 sum, NarrowF32 w, NarrowF32 x) { return sum + w * x; }

SAX_INLINE Halves Weight(Bf16Unit, NarrowU32 w) {
  return {(NarrowF32)(w << 16), (NarrowF32)(w & 0xffff0000u)};
}
SAX_INLINE Halves Factor(Bf16Unit, NarrowU32 x) { return Weight(Bf16Unit{}, x); }
SAX_INLINE NarrowF32 Add(NarrowF32 sum, Halves w, Halves x) {
  sum = sum + w.low * x.low;
  return sum + w.high * x.high;
}

// Bytes, unsigned in weights and signed in activations, as 16 bits: their products are exact.
SAX_INLINE Pairs Weight(Int8Unit, NarrowU32 w) {
  return {(NarrowI16)(w & 0x00ff00ffu), (NarrowI16)(w >> 8 & 0x00ff00ffu)};
}
SAX_INLINE Pairs Factor(Int8Unit, NarrowU32 x) {
  return {(NarrowI16)((NarrowI16)x << 8) >> 8, (NarrowI16)x >> 8};
}
// The sums of products of neighbours.
SAX_INLINE NarrowI32 MultiplyPairs(NarrowI16 a, NarrowI16 b) {
#if defined(__AVX2__)
  return (NarrowI32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (NarrowI32)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const NarrowI32 x = (NarrowI32)a, y = (NarrowI32)b;
  return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}
SAX_INLINE NarrowI32 Add(NarrowI32 sum, Pairs w, Pairs x) {
  return sum + MultiplyPairs(w.even, x.even) + MultiplyPairs(w.odd, x.odd);
}

// Units x[row * row_step + k * step], for each depth k.
struct Factors {
  const uint32_t* units;
  int row_step;
  int step;
};

// sums[kRows][kVectors] += factors times weights w[k * step], vectors of units. Of the two, what
// there is less of is held in registers.
template <class Unit, int kRows, int kVectors, class Sum>
SAX_INLINE void MultiplyTile(const Factors& x, const uint32_t* w, int step, int depth,
                             Sum (&sums)[kRows][kVectors]) {
  using Operand = decltype(Weight(Unit{}, NarrowU32{}));
  constexpr bool kHoldRows = kRows < kVectors;
  for (int k = 0; k < depth; ++k) {
    const uint32_t* const weights = w + static_cast<size_t>(k) * step;
    const uint32_t* const values = x.units + static_cast<size_t>(k) * x.step;
    Operand held[kHoldRows ? kRows : kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < (kHoldRows ? kRows : kVectors); ++i) {
      held[i] = kHoldRows ? Factor(Unit{}, Spread(values[i * x.row_step]))
                          : Weight(Unit{}, LoadAs<NarrowU32>(weights + i * kWidth));
    }
#pragma GCC unroll 4
    for (int i = 0; i < (kHoldRows ? kVectors : kRows); ++i) {
      const Operand other = kHoldRows ? Weight(Unit{}, LoadAs<NarrowU32>(weights + i * kWidth))
                                      : Factor(Unit{}, Spread(values[i * x.row_step]));
#pragma GCC unroll 4
      for (int h = 0; h < (kHoldRows ? kRows : kVectors); ++h) {
        Sum& sum = kHoldRows ? sums[h][i] : sums[i][h];
        sum = kHoldRows ? Add(sum, other, held[h]) : Add(sum, held[h], other);
      }
    }
  }
}

// sums[kRows][kVectors] from or to memory, `step` numbers from one row to the next.
template <int kRows, int kVectors>
SAX_INLINE void LoadTile(const float* from, int step, NarrowF32 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = LoadAs<NarrowF32>(from + static_cast<size_t>(r) * step + v * kWidth);
    }
  }
}
template <int kRows, int kVectors>
SAX_INLINE void StoreTile(float* to, int step, const NarrowF32 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      StoreAs(to + static_cast<size_t>(r) * step + v * kWidth, sums[r][v]);
    }
  }
}

// Rows of a tile that begins at row `first` of kRows, and its vectors.
constexpr int TileRows(int rows, int first) { return rows - first < 4 ? rows - first : 4; }
constexpr int TileVectors(int rows) { return rows <= 2 ? 4 : 2; }

}  // namespace
}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_NARROW_H_
