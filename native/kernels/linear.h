// Linear computes y = activation(norm(x) @ W + bias) + residual for a few rows or many, with W
// packed by pack.h; what surrounds the product is done while its data are in the cache.
//
//   Linear linear{.rows = 4, .inputs = {{x, 1024, Format::kF32}}, .num_inputs = 1};
//   linear.weights = {.element = Element::kBf16, .depth = 1024, .columns = 3072, .data = packed};
//   linear.outputs[0] = {.columns = 3072, .data = y};
//   Compute(linear, &runner);
#ifndef NATIVE_KERNELS_LINEAR_H_
#define NATIVE_KERNELS_LINEAR_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/tasks.h"

namespace sax::kernels {

// How weights are stored. Products are summed up in float32. Those of kInt8 are exact in int32 for
// 64 activations of a row at a time, which are rounded to 8 bits of the largest among them: the few
// large ones that language models have would take the whole row's digits.
enum class Element { kF32, kBf16, kInt8 };

// Activations in memory.
enum class Format { kF32, kBf16 };

enum class Norm { kNone, kLayer, kRms };

enum class Activation {
  kNone,
  kGelu,       // approximated by tanh, as GPT-J has it
  kSiluGated,  // silu(gate) * up; see Layout::kGated in pack.h. Half as many columns come out
};

// One matrix, as pack.h makes it.
struct Weights {
  Element element = Element::kF32;
  int depth = 0;    // rows of W: the width of all inputs together
  int columns = 0;  // columns of W
  const void* data = nullptr;
  // For kInt8: what a column's integers are multiplied by.
  const float* scale = nullptr;
};

// rows x width numbers, one row after the other.
struct Input {
  const void* data = nullptr;
  int width = 0;
  Format format = Format::kF32;
};

// Columns of the product, in order; the first output's come first. All but the last output of a
// product have a multiple of 32 columns of W.
struct Output {
  int columns = 0;  // of W
  void* data = nullptr;
  Format format = Format::kF32;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // rows x columns, added after the activation
};

inline constexpr int kMaxInputs = 2;
inline constexpr int kMaxOutputs = 2;

struct Linear {
  int rows = 0;
  Input inputs[kMaxInputs] = {};  // side by side
  int num_inputs = 1;
  // Of the inputs, which must be one then.
  Norm norm = Norm::kNone;
  const float* norm_scale = nullptr;
  const float* norm_bias = nullptr;
  float norm_eps = 0;
  Weights weights = {};
  const float* bias = nullptr;  // of each column of W
  Output outputs[kMaxOutputs] = {};
  int num_outputs = 1;
};

// Safe from several threads at once. Throws std::invalid_argument for sizes that do not fit
// together.
void Compute(const Linear& linear, TaskRunner* runner);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LINEAR_H_
