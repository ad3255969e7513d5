// What choice.cc and choice_level.cc have in common.
#ifndef NATIVE_KERNELS_CHOICE_IMPL_H_
#define NATIVE_KERNELS_CHOICE_IMPL_H_

#include <cstdint>

namespace sax::kernels {

// Maxima of 64 classes of columns: those of equal index modulo 64.
inline constexpr int kClasses = 64;

namespace portable {
void ClassMaxima(const float* logits, int columns, float* maxima);
float ExpSum(const float* logits, int columns, float most, float threshold, int32_t* above,
             int* count);
}  // namespace portable
namespace avx2 {
void ClassMaxima(const float* logits, int columns, float* maxima);
float ExpSum(const float* logits, int columns, float most, float threshold, int32_t* above,
             int* count);
}  // namespace avx2
namespace avx512 {
void ClassMaxima(const float* logits, int columns, float* maxima);
float ExpSum(const float* logits, int columns, float most, float threshold, int32_t* above,
             int* count);
}  // namespace avx512
namespace avx512_bf16 {
void ClassMaxima(const float* logits, int columns, float* maxima);
float ExpSum(const float* logits, int columns, float most, float threshold, int32_t* above,
             int* count);
}  // namespace avx512_bf16

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_CHOICE_IMPL_H_
