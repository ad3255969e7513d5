// Sixteen floats or integers at a time, for kernels that are compiled once for each Level.
//
// A kernel's source is compiled with -DSAX_LEVEL=portable (avx2, ...) and keeps all it defines in
// the namespace of that name, without templates or inline functions of the standard library:
// the linker would take one copy of these for all levels, and perhaps that of too high a one.
// GCC's vector types stand for whatever registers the level has.
#ifndef NATIVE_KERNELS_SIMD_H_
#define NATIVE_KERNELS_SIMD_H_

#ifndef SAX_LEVEL
#error "compile this with -DSAX_LEVEL=..., see leveled_cc_library"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#define SAX_INLINE static inline __attribute__((always_inline))

namespace sax::kernels {
namespace SAX_LEVEL {

typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));
inline constexpr int kLanes = 16;

template <class T>
SAX_INLINE T Min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
SAX_INLINE T Max(T a, T b) {
  return a > b ? a : b;
}
template <class T>
SAX_INLINE T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

template <class V>
SAX_INLINE V LoadAs(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}
SAX_INLINE F32 Load(const float* from) { return LoadAs<F32>(from); }
template <class V>
SAX_INLINE void StoreAs(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}
SAX_INLINE void Store(float* to, F32 v) { StoreAs(to, v); }
SAX_INLINE F32 Splat(float x) { return x - F32{}; }

SAX_INLINE F32 VMax(F32 a, F32 b) { return a > b ? a : b; }
SAX_INLINE F32 VMin(F32 a, F32 b) { return a < b ? a : b; }

// v with its halves, quarters, eighths or pairs of lanes swapped.
SAX_INLINE F32 Swap8(F32 v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}
SAX_INLINE F32 Swap4(F32 v) {
  return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
}
SAX_INLINE F32 Swap2(F32 v) {
  return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
}
SAX_INLINE F32 Swap1(F32 v) {
  return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
SAX_INLINE float ReduceAdd(F32 v) {
  v += Swap8(v);
  v += Swap4(v);
  v += Swap2(v);
  return v[0] + v[1];
}
SAX_INLINE float ReduceMax(F32 v) {
  v = VMax(v, Swap8(v));
  v = VMax(v, Swap4(v));
  v = VMax(v, Swap2(v));
  return Max(v[0], v[1]);
}

SAX_INLINE F32 FromBf16(const uint16_t* from) {
  return (F32)(__builtin_convertvector(LoadAs<U16>(from), U32) << 16);
}

// Rounded to the nearest, ties to even; NaN stays NaN.
SAX_INLINE U16 ToBf16(F32 v) {
#if defined(__AVX512BF16__)
  U16 rounded;
  asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v));
  return rounded;
#else
  const U32 bits = (U32)v;
  const U32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const U32 quiet = (bits >> 16) | 0x40;
  const U32 nan = (U32)((bits & 0x7fffffff) > 0x7f800000);
  return __builtin_convertvector((quiet & nan) | (rounded & ~nan), U16);
#endif
}
SAX_INLINE void StoreBf16(uint16_t* to, F32 v) { StoreAs(to, ToBf16(v)); }

// 2 ** x for x from -126 to 127, to which others are set, with a relative error below 2e-7; NaN
// for NaN.
SAX_INLINE F32 Exp2(F32 x) {
  const F32 clamped = VMin(x < Splat(-126) ? Splat(-126) : x, Splat(127));
  // NaN compares false, so VMin would make it 127.
  x = x != x ? x : clamped;
  const F32 magic = Splat(12582912.0f);  // adding 1.5 * 2 ** 23 rounds to an integer
  const F32 whole = (x + magic) - magic;
  const F32 f = x - whole;
  F32 p = Splat(1.5403530e-4f);
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const I32 exponent = ((I32)(whole + magic) - (I32)magic + 127) << 23;
  return p * (F32)exponent;
}
SAX_INLINE F32 Exp(F32 x) { return Exp2(x * 1.44269504f); }

// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, which is x * sigmoid(2 * ...).
SAX_INLINE F32 Gelu(F32 x) {
  const F32 inner = (x * x * x * 0.044715f + x) * 1.5957691216f;
  return x / (Exp(-inner) + 1.0f);
}
SAX_INLINE F32 Silu(F32 x) { return x / (Exp(-x) + 1.0f); }

// How weights, keys and values are stored: as units of 32 bits that a dot product takes at once.
struct F32Unit {
  static constexpr int kCount = 1;
};
struct Bf16Unit {
  static constexpr int kCount = 2;
};
struct Int8Unit {
  static constexpr int kCount = 4;  // weights are unsigned, activations signed
};

// acc + the products of sixteen units w with the unit x, each summed up. acc holds floats, or
// integers for Int8Unit.
SAX_INLINE F32 Dot(F32Unit, F32 acc, U32 w, uint32_t x) {
  float value;
  __builtin_memcpy(&value, &x, 4);
  return acc + (F32)w * value;
}

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
// By hand: GCC 12 copies accumulators around the intrinsics.
SAX_INLINE F32 Dot(Bf16Unit, F32 acc, U32 w, uint32_t x) {
  const U32 all = x - U32{};
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(all));
  return acc;
}
SAX_INLINE F32 Dot(Int8Unit, F32 acc, U32 w, uint32_t x) {
  const U32 all = x - U32{};
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(all));
  return acc;
}
#else
SAX_INLINE F32 Dot(Bf16Unit, F32 acc, U32 w, uint32_t x) {
  const uint32_t low = x << 16, high = x & 0xffff0000u;
  float x0, x1;
  __builtin_memcpy(&x0, &low, 4);
  __builtin_memcpy(&x1, &high, 4);
  acc = acc + (F32)(w << 16) * x0;
  return acc + (F32)(w & 0xffff0000u) * x1;
}
SAX_INLINE F32 Dot(Int8Unit, F32 acc, U32 w, uint32_t x) {
  I32 sum = (I32)acc;
  sum += (I32)(w & 255) * static_cast<int8_t>(x);
  sum += (I32)(w >> 8 & 255) * static_cast<int8_t>(x >> 8);
  sum += (I32)(w >> 16 & 255) * static_cast<int8_t>(x >> 16);
  sum += (I32)(w >> 24) * static_cast<int8_t>(x >> 24);
  return (F32)sum;
}
#endif

SAX_INLINE void Prefetch(const void* place) { __builtin_prefetch(place, 0, 3); }

}  // namespace SAX_LEVEL
}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_SIMD_H_
