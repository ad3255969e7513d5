#include "native/kernels/linear.h"

#include <stdexcept>

#include "native/base/str_cat.h"
#include "native/kernels/level.h"
#include "native/kernels/linear_impl.h"
#include "native/kernels/pack.h"

namespace sax::kernels {
namespace {

void Check(const Linear& linear) {
  const auto require = [](bool good, const auto&... what) {
    if (!good) throw std::invalid_argument(StrCat(what...));
  };
  require(linear.rows >= 0, "a product of ", linear.rows, " rows");
  require(linear.num_inputs >= 1 && linear.num_inputs <= kMaxInputs, linear.num_inputs,
          " inputs; there may be 1 to ", kMaxInputs);
  int depth = 0, columns = 0;
  for (int i = 0; i < linear.num_inputs; ++i) depth += linear.inputs[i].width;
  require(depth == linear.weights.depth, "inputs of ", depth, " columns for weights of ",
          linear.weights.depth, " rows");
  require(linear.norm == Norm::kNone || linear.num_inputs == 1,
          "a norm of several inputs side by side");
  require(linear.num_outputs >= 1 && linear.num_outputs <= kMaxOutputs, linear.num_outputs,
          " outputs; there may be 1 to ", kMaxOutputs);
  for (int i = 0; i < linear.num_outputs; ++i) {
    const Output& output = linear.outputs[i];
    columns += output.columns;
    require(i + 1 == linear.num_outputs || output.columns % kPanel == 0, "an output of ",
            output.columns, " columns before another; it must be a multiple of ", kPanel);
    require(output.activation != Activation::kSiluGated || output.columns % kPanel == 0,
            "a gated output of ", output.columns, " columns; it must be a multiple of ", kPanel);
  }
  require(columns == linear.weights.columns, "outputs of ", columns, " columns for weights of ",
          linear.weights.columns);
}

}  // namespace

void Compute(const Linear& linear, TaskRunner* runner) {
  Check(linear);
  if (linear.rows == 0) return;
  const int depth = UnitDepth(linear.weights.element, linear.weights.depth);
  const int groups =
      linear.weights.element == Element::kInt8 ? (depth + kGroupUnits - 1) / kGroupUnits : 0;
  const size_t units = static_cast<size_t>(linear.rows) * depth;
  const size_t scales = static_cast<size_t>(linear.rows) * groups;
  auto* memory =
      static_cast<uint32_t*>(Scratch(Place::kCaller, (units + 2 * scales) * sizeof(uint32_t)));
  auto* scale = reinterpret_cast<float*>(memory + units);
  auto* start = reinterpret_cast<int32_t*>(scale + scales);
  const LinearJob job = {&linear, depth, memory, groups, scale, start};
  switch (CurrentLevel()) {
    case Level::kPortable:
      return portable::RunLinear(job, runner);
    case Level::kAvx2:
      return avx2::RunLinear(job, runner);
    case Level::kAvx512:
      return avx512::RunLinear(job, runner);
    case Level::kAvx512Bf16:
      return avx512_bf16::RunLinear(job, runner);
  }
}

}  // namespace sax::kernels
