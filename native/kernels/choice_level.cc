// The two passes over a row of logits, at one level.
#include "native/kernels/choice_impl.h"
#include "native/kernels/simd.h"

namespace sax::kernels {
namespace SAX_LEVEL {

// maxima[i] = the largest of the columns i, i + 64, ...; -infinity where there are none. NaN are
// passed over.
void ClassMaxima(const float* logits, int columns, float* maxima) {
  constexpr int kVectors = kClasses / kLanes;
  F32 top[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) top[v] = Splat(-__builtin_inff());
  int i = 0;
  for (; i + kClasses <= columns; i += kClasses) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const F32 x = Load(logits + i + v * kLanes);
      top[v] = x > top[v] ? x : top[v];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) Store(maxima + v * kLanes, top[v]);
  for (; i < columns; ++i) {
    if (logits[i] > maxima[i % kClasses]) maxima[i % kClasses] = logits[i];
  }
}

// The sum of exp(logit - most). Columns whose logits are at least `threshold` are put into `above`,
// in order.
float ExpSum(const float* logits, int columns, float most, float threshold, int32_t* above,
             int* count) {
  constexpr int kVectors = 8;
  F32 sum[2] = {};
  float rest = 0;
  int found = 0, i = 0;
  for (; i + kVectors * kLanes <= columns; i += kVectors * kLanes) {
    F32 top = Load(logits + i);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const F32 x = Load(logits + i + v * kLanes);
      top = x > top ? x : top;
      sum[v % 2] += Exp(x - most);
    }
    if (__builtin_expect(ReduceMax(top) < threshold, 1)) continue;
    for (int j = i; j < i + kVectors * kLanes; ++j) {
      if (logits[j] >= threshold) above[found++] = j;
    }
  }
  for (; i < columns; ++i) {
    rest += Exp(Splat(logits[i] - most))[0];
    if (logits[i] >= threshold) above[found++] = i;
  }
  *count = found;
  return ReduceAdd(sum[0] + sum[1]) + rest;
}

}  // namespace SAX_LEVEL
}  // namespace sax::kernels
