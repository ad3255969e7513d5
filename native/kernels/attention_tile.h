// A tile of queries against a run of keys after another, with a running maximum (Milakov &
// Gimelshein 2018), at one level. Part of attention_level.cc.
#ifndef NATIVE_KERNELS_ATTENTION_TILE_H_
#define NATIVE_KERNELS_ATTENTION_TILE_H_

#include "native/kernels/attention_impl.h"
#include "native/kernels/simd.h"
#ifndef __AVX512F__
#include "native/kernels/narrow.h"
#endif

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

constexpr int kTile = 12;
// Runs of sixteen keys that a tile takes at once.
constexpr int kRuns = 8;
constexpr int kKeys = kRuns * kKeyLanes;
// Rows of a tile, and vectors of values, whose sums are in registers together.
constexpr int kValueRows = 6;
constexpr int kValueVectors = 4;
constexpr float kMasked = -1e30f;

// scores[row][16 * kPair] = queries [dims][kRows] times kPair runs of keys [dims][16].
#ifdef __AVX512F__
template <class Unit, int kRows, int kPair>
__attribute__((noinline)) void ScoreRows(const uint32_t* queries, const uint32_t* const* keys,
                                         int dims, float* scores) {
  F32 acc[kRows][kPair] = {};
  const uint32_t* const first = keys[0];
  const uint32_t* const second = keys[kPair - 1];
  for (int d = 0; d < dims; ++d) {
    const U32 k0 = LoadAs<U32>(first + d * kKeyLanes);
    const U32 k1 = LoadAs<U32>(second + d * kKeyLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const uint32_t q = queries[d * kRows + r];
      acc[r][0] = Dot(Unit{}, acc[r][0], k0, q);
      if (kPair == 2) acc[r][kPair - 1] = Dot(Unit{}, acc[r][kPair - 1], k1, q);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    Store(scores + r * kKeys, acc[r][0]);
    if (kPair == 2) Store(scores + r * kKeys + kLanes, acc[r][kPair - 1]);
  }
}
#else
template <class Unit, int kRows, int kFirst = 0>
SAX_INLINE void ScoreColumns(const uint32_t* queries, const uint32_t* keys, int dims,
                             float* scores) {
  constexpr int kTileRows = TileRows(kRows, kFirst);
  NarrowF32 tile[kTileRows][2] = {};
  MultiplyTile<Unit>({queries + kFirst, 1, kRows}, keys, kKeyLanes, dims, tile);
  StoreTile(scores + kFirst * kKeys, kKeys, tile);
  if constexpr (kFirst + kTileRows < kRows) {
    ScoreColumns<Unit, kRows, kFirst + kTileRows>(queries, keys, dims, scores);
  }
}

template <class Unit, int kRows, int kPair>
__attribute__((noinline)) void ScoreRows(const uint32_t* queries, const uint32_t* const* keys,
                                         int dims, float* scores) {
  for (int run = 0; run < kPair; ++run) {
    for (int column = 0; column < kKeyLanes; column += 2 * kWidth) {
      ScoreColumns<Unit, kRows>(queries, keys[run] + column, dims,
                                scores + run * kKeyLanes + column);
    }
  }
}
#endif

template <class Unit, int kPair>
void Score(int rows, const uint32_t* queries, const uint32_t* const* keys, int dims,
           float* scores) {
  using Kernel = void (*)(const uint32_t*, const uint32_t* const*, int, float*);
  static constexpr Kernel kKernels[kTile] = {
      ScoreRows<Unit, 1, kPair>,  ScoreRows<Unit, 2, kPair>,  ScoreRows<Unit, 3, kPair>,
      ScoreRows<Unit, 4, kPair>,  ScoreRows<Unit, 5, kPair>,  ScoreRows<Unit, 6, kPair>,
      ScoreRows<Unit, 7, kPair>,  ScoreRows<Unit, 8, kPair>,  ScoreRows<Unit, 9, kPair>,
      ScoreRows<Unit, 10, kPair>, ScoreRows<Unit, 11, kPair>, ScoreRows<Unit, 12, kPair>,
  };
  kKernels[rows - 1](queries, keys, dims, scores);
}

// out[row][width] += weights [row][kKeys / count] times values [units][width], of `runs` runs.
#ifdef __AVX512F__
template <class Unit, int kRows, int kVectors>
__attribute__((noinline)) void MixRows(const uint32_t* weights, const uint32_t* const* values,
                                       int units, int padded, float* out) {
  constexpr int kRunUnits = kKeyLanes / Unit::kCount;
  F32 acc[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Load(out + r * padded + v * kLanes);
  }
  for (int first = 0; first < units; first += kRunUnits) {
    const uint32_t* const run = values[first / kRunUnits];
    const int count = Min(kRunUnits, units - first);
    for (int u = 0; u < count; ++u) {
      U32 w[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) w[v] = LoadAs<U32>(run + u * padded + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const uint32_t p = weights[r * (kKeys / Unit::kCount) + first + u];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Dot(Unit{}, acc[r][v], w[v], p);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(out + r * padded + v * kLanes, acc[r][v]);
  }
}
#else
template <class Unit, int kRows, int kFirst = 0>
SAX_INLINE void MixColumns(const uint32_t* weights, const uint32_t* const* values, int column,
                           int units, int padded, float* out) {
  constexpr int kRunUnits = kKeyLanes / Unit::kCount, kStep = kKeys / Unit::kCount;
  constexpr int kTileRows = TileRows(kRows, kFirst);
  NarrowF32 tile[kTileRows][2];
  float* const own = out + kFirst * padded;
  LoadTile(own, padded, tile);
  for (int first = 0; first < units; first += kRunUnits) {
    MultiplyTile<Unit>({weights + kFirst * kStep + first, kStep, 1},
                       values[first / kRunUnits] + column, padded, Min(kRunUnits, units - first),
                       tile);
  }
  StoreTile(own, padded, tile);
  if constexpr (kFirst + kTileRows < kRows) {
    MixColumns<Unit, kRows, kFirst + kTileRows>(weights, values, column, units, padded, out);
  }
}

template <class Unit, int kRows, int kVectors>
__attribute__((noinline)) void MixRows(const uint32_t* weights, const uint32_t* const* values,
                                       int units, int padded, float* out) {
  for (int column = 0; column < kVectors * kLanes; column += 2 * kWidth) {
    MixColumns<Unit, kRows>(weights, values, column, units, padded, out + column);
  }
}
#endif

template <class Unit, int kVectors>
void Mix(int rows, const uint32_t* weights, const uint32_t* const* values, int units, int padded,
         float* out) {
  using Kernel = void (*)(const uint32_t*, const uint32_t* const*, int, int, float*);
  static constexpr Kernel kKernels[kValueRows] = {
      MixRows<Unit, 1, kVectors>, MixRows<Unit, 2, kVectors>, MixRows<Unit, 3, kVectors>,
      MixRows<Unit, 4, kVectors>, MixRows<Unit, 5, kVectors>, MixRows<Unit, 6, kVectors>,
  };
  kKernels[rows - 1](weights, values, units, padded, out);
}

SAX_INLINE void PutWeights(F32Unit, F32 p, uint32_t* weights, int run) {
  StoreAs(weights + run * kKeyLanes, p);
}
SAX_INLINE void PutWeights(Bf16Unit, F32 p, uint32_t* weights, int run) {
  StoreAs(weights + run * kKeyLanes / 2, ToBf16(p));
}

// What one tile has seen so far. Its queries are packed [dims][rows].
struct Tile {
  const uint32_t* queries;
  float* out;   // [rows][padded], not divided by `mass` yet
  float* top;   // [rows], the largest score
  float* mass;  // [rows]
  int rows;
};

// Takes `runs` runs of keys into a tile; row r sees the first visible[r] of their keys.
template <class Unit>
void Take(const Tile& tile, const uint32_t* const* keys, const uint32_t* const* values, int runs,
          const int* visible, int dims, int padded) {
  alignas(64) float scores[kTile * kKeys];
  alignas(64) uint32_t weights[kTile * kKeys / Unit::kCount];
  int run = 0;
  for (; run + 2 <= runs; run += 2) {
    Score<Unit, 2>(tile.rows, tile.queries, keys + run, dims, scores + run * kKeyLanes);
  }
  if (run < runs)
    Score<Unit, 1>(tile.rows, tile.queries, keys + run, dims, scores + run * kKeyLanes);
  int most = 0;
  for (int r = 0; r < tile.rows; ++r) {
    uint32_t* const own_weights = weights + r * (kKeys / Unit::kCount);
    if (visible[r] <= 0) {
      __builtin_memset(own_weights, 0, kKeys / Unit::kCount * sizeof(uint32_t));
      continue;
    }
    float* const own = scores + r * kKeys;
    const int seen = Min(visible[r], runs * kKeyLanes);
    most = Max(most, seen);
    for (int k = seen; k < runs * kKeyLanes; ++k) own[k] = kMasked;
    // A NaN may get lost here, but not in the weights.
    F32 best = Splat(tile.top[r]);
    for (int i = 0; i < runs; ++i) best = VMax(best, Load(own + i * kKeyLanes));
    const float top = ReduceMax(best);
    F32 sum = {};
    for (int i = 0; i < runs; ++i) {
      const F32 p = Exp2(Load(own + i * kKeyLanes) - top);
      sum += p;
      PutWeights(Unit{}, p, own_weights, i);
    }
    const float shrink = Exp2(Splat(tile.top[r] - top))[0];
    tile.mass[r] = tile.mass[r] * shrink + ReduceAdd(sum);
    tile.top[r] = top;
    if (shrink == 1) continue;
    float* const out = tile.out + r * padded;
    for (int d = 0; d < padded; d += kLanes) Store(out + d, Load(out + d) * shrink);
  }
  const int units = CeilDiv(most, Unit::kCount);
  for (int r = 0; r < tile.rows; r += kValueRows) {
    const int rows = Min(kValueRows, tile.rows - r);
    const uint32_t* const own = weights + r * (kKeys / Unit::kCount);
    int d = 0;
    const uint32_t* at[kRuns];
    for (; d < padded; d += kValueVectors * kLanes) {
      for (int i = 0; i < runs; ++i) at[i] = values[i] + d;
      float* const out = tile.out + r * padded + d;
      switch (Min(kValueVectors, (padded - d) / kLanes)) {
        case 1:
          Mix<Unit, 1>(rows, own, at, units, padded, out);
          break;
        case 2:
          Mix<Unit, 2>(rows, own, at, units, padded, out);
          break;
        case 3:
          Mix<Unit, 3>(rows, own, at, units, padded, out);
          break;
        default:
          Mix<Unit, 4>(rows, own, at, units, padded, out);
      }
    }
  }
}

}  // namespace
}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_ATTENTION_TILE_H_
