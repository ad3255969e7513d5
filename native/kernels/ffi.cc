#include "native/kernels/ffi.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"
#include "native/kernels/attention.h"
#include "native/kernels/choice.h"
#include "native/kernels/linear.h"
#include "native/kernels/pack.h"
#include "native/kernels/tasks.h"
#include "xla/ffi/api/ffi.h"

namespace sax::kernels {
namespace {

namespace ffi = xla::ffi;
using Any = ffi::AnyBuffer;
using Result = ffi::Result<Any>;
using Floats = ffi::Buffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;
using Units = ffi::Buffer<ffi::U32>;

// On XLA's own threads.
PoolRunner Runner(ffi::ThreadPool pool) {
  return PoolRunner(static_cast<int>(pool.num_threads()),
                    [pool](std::function<void()> work) mutable { pool.Schedule(std::move(work)); });
}

// A kernel's refusal as an error of the call.
template <class Do>
ffi::Error Guarded(Do&& act) {
  try {
    act();
    return ffi::Error::Success();
  } catch (const std::invalid_argument& e) {
    return ffi::Error::InvalidArgument(e.what());
  } catch (const std::exception& e) {
    return ffi::Error::Internal(e.what());
  }
}

template <class... What>
void Require(bool good, const What&... what) {
  if (!good) throw std::invalid_argument(StrCat(what...));
}

template <class Buffer>
int Dim(const Buffer& buffer, size_t axis) {
  Require(axis < buffer.dimensions().size(), "an operand has ", buffer.dimensions().size(),
          " dimensions; dimension ", axis, " is wanted");
  return static_cast<int>(buffer.dimensions()[axis]);
}

Format FormatOf(const Any& buffer) {
  if (buffer.element_type() == ffi::F32) return Format::kF32;
  Require(buffer.element_type() == ffi::BF16, "activations are float32 or bfloat16");
  return Format::kBf16;
}

Element ElementOf(int64_t number) {
  Require(number >= 0 && number <= 2, "element ", number,
          " is none of 0 (f32), 1 (bf16), 2 (int8)");
  return static_cast<Element>(number);
}

// Layer `layer` of a stack [L, ...]; nullptr for a stack of nothing.
template <class T, class Buffer>
const T* Layer(const Buffer& stack, int layer) {
  if (stack.element_count() == 0) return nullptr;
  Require(layer >= 0 && layer < Dim(stack, 0), "layer ", layer, " of ", Dim(stack, 0));
  return reinterpret_cast<const T*>(stack.untyped_data()) +
         stack.element_count() / Dim(stack, 0) * layer;
}

void RequireSize(const char* what, size_t has, size_t wanted) {
  Require(has == 0 || has == wanted, what, " of ", has, " numbers; ", wanted, " are wanted");
}

// Attributes of a product: see saxml/ops/cpu_kernels.py.
ffi::Error LinearCall(ffi::ThreadPool pool, Any x0, Any x1, Ints index, Ints valid_rows,
                      Units weights, Floats scale, Floats norm_scale, Floats norm_bias, Floats bias,
                      Floats residual, Result y0, Result y1, int64_t element, int64_t columns,
                      int64_t norm, float norm_eps, int64_t activation0, int64_t activation1) {
  return Guarded([&] {
    const int layer = index.typed_data()[0], rows = Dim(x0, 0);
    Linear linear;
    linear.rows = std::min(rows, valid_rows.typed_data()[0]);
    linear.inputs[0] = {x0.untyped_data(), Dim(x0, 1), FormatOf(x0)};
    int depth = Dim(x0, 1);
    if (x1.element_count() > 0) {
      Require(Dim(x1, 0) == rows, "inputs of ", rows, " and of ", Dim(x1, 0), " rows");
      linear.inputs[linear.num_inputs++] = {x1.untyped_data(), Dim(x1, 1), FormatOf(x1)};
      depth += Dim(x1, 1);
    }
    const int stack = Dim(weights, 0), wide = static_cast<int>(columns);
    const size_t padded = (static_cast<size_t>(wide) + kPanel - 1) / kPanel * kPanel;
    const Element kind = ElementOf(element);
    Require(weights.element_count() == stack * PackedUnits(kind, depth, wide), "packed weights of ",
            weights.element_count(), " units for ", stack, " matrices of ", depth, " x ", wide);
    Require(kind != Element::kInt8 || scale.element_count() == stack * padded, "int8 weights need ",
            stack * padded, " scales and have ", scale.element_count());
    RequireSize("scales", scale.element_count(), stack * padded);
    RequireSize("norm scales", norm_scale.element_count(), static_cast<size_t>(stack) * depth);
    RequireSize("norm biases", norm_bias.element_count(), static_cast<size_t>(stack) * depth);
    RequireSize("biases", bias.element_count(), static_cast<size_t>(stack) * wide);
    linear.weights = {kind, depth, wide, Layer<uint32_t>(weights, layer),
                      Layer<float>(scale, layer)};
    linear.norm = static_cast<Norm>(norm);
    Require(linear.norm == Norm::kNone || norm_scale.element_count() > 0, "a norm without scale");
    linear.norm_scale = Layer<float>(norm_scale, layer);
    linear.norm_bias = Layer<float>(norm_bias, layer);
    linear.norm_eps = norm_eps;
    linear.bias = Layer<float>(bias, layer);
    const int64_t activations[] = {activation0, activation1};
    Result* const results[] = {&y0, &y1};
    linear.num_outputs = 0;
    for (int i = 0; i < kMaxOutputs; ++i) {
      Any& y = **results[i];
      if (y.element_count() == 0) continue;
      Require(Dim(y, 0) == rows, "inputs of ", rows, " and an output of ", Dim(y, 0), " rows");
      Output& output = linear.outputs[linear.num_outputs++];
      output.activation = static_cast<Activation>(activations[i]);
      output.columns = Dim(y, 1) * (output.activation == Activation::kSiluGated ? 2 : 1);
      output.data = y.untyped_data();
      output.format = FormatOf(y);
    }
    if (residual.element_count() > 0) {
      RequireSize("residuals", residual.element_count(), y0->element_count());
      linear.outputs[0].residual = residual.typed_data();
    }
    PoolRunner runner = Runner(pool);
    Compute(linear, &runner);
  });
}

ffi::Error AttentionCall(ffi::ThreadPool pool, Floats qkv, Ints index, Ints num_rows, Ints q_start,
                         Ints kv_len, Ints page_table, Floats cos, Floats sin, Units pages,
                         Result out, ffi::Result<Units> new_pages, int64_t heads, int64_t kv_heads,
                         int64_t head_dim, int64_t page_size, int64_t element, int64_t style,
                         float query_scale) {
  return Guarded([&] {
    Require(new_pages->untyped_data() == pages.untyped_data(),
            "the pages were copied: they must be donated, and alias the result");
    const PageShape shape = {static_cast<int>(kv_heads), static_cast<int>(head_dim),
                             static_cast<int>(page_size), ElementOf(element)};
    const int layer = index.typed_data()[0], num_pages = Dim(pages, 1), tokens = Dim(qkv, 0);
    const size_t width = static_cast<size_t>(heads + 2 * kv_heads) * head_dim;
    Require(shape.kv_heads > 0 && shape.page_size > 0, "pages of no size");
    Require(pages.element_count() == Dim(pages, 0) * num_pages * PageUnits(shape), "pages of ",
            pages.element_count(), " units; ", Dim(pages, 0) * num_pages * PageUnits(shape),
            " are wanted");
    Require(static_cast<size_t>(Dim(qkv, 1)) == width, "rows of ", Dim(qkv, 1), " numbers for ",
            heads, " heads and twice ", kv_heads, " of ", head_dim);
    RequireSize("output", out->element_count(), static_cast<size_t>(tokens) * heads * head_dim);
    RequireSize("cosines", cos.element_count(), static_cast<size_t>(tokens) * Dim(cos, 1));
    RequireSize("sines", sin.element_count(), cos.element_count());
    Attention a;
    a.shape = shape;
    a.heads = static_cast<int>(heads);
    a.num_rows = std::min(num_rows.typed_data()[0], Dim(kv_len, 0));
    a.pages_per_row = Dim(page_table, 1);
    a.num_pages = num_pages;
    a.query_scale = query_scale;
    a.query = qkv.typed_data();
    a.key = a.query + heads * head_dim;
    a.value = a.key + kv_heads * head_dim;
    a.stride = width;
    a.rotary_dim = Dim(cos, 1);
    a.rotary_style = static_cast<RotaryStyle>(style);
    a.cos = cos.typed_data();
    a.sin = sin.typed_data();
    a.q_start = q_start.typed_data();
    a.kv_len = kv_len.typed_data();
    a.page_table = page_table.typed_data();
    a.pages = const_cast<uint32_t*>(Layer<uint32_t>(*new_pages, layer));
    a.out = out->untyped_data();
    a.out_format = FormatOf(*out);
    Require(static_cast<size_t>(Dim(q_start, 0)) == kv_len.element_count() + 1 &&
                Dim(page_table, 0) == Dim(kv_len, 0),
            "q_start, kv_len and page_table are of ", Dim(q_start, 0), ", ", Dim(kv_len, 0),
            " and ", Dim(page_table, 0), " rows");
    Require(a.num_rows == 0 || a.q_start[a.num_rows] <= tokens, "rows of more than ", tokens,
            " tokens");
    PoolRunner runner = Runner(pool);
    Compute(a, &runner);
  });
}

ffi::Error ChoiceCall(ffi::ThreadPool pool, Floats logits, Ints valid_rows,
                      ffi::Result<Floats> values, ffi::Result<Ints> indices,
                      ffi::Result<Floats> log_sum) {
  return Guarded([&] {
    const Choice choice = {.rows = std::min(Dim(logits, 0), valid_rows.typed_data()[0]),
                           .columns = Dim(logits, 1),
                           .best = Dim(*values, 1),
                           .logits = logits.typed_data(),
                           .values = values->typed_data(),
                           .indices = indices->typed_data(),
                           .log_sum = log_sum->typed_data()};
    PoolRunner runner = Runner(pool);
    Compute(choice, &runner);
  });
}

XLA_FFI_DEFINE_HANDLER(kLinear, LinearCall,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Any>()
                           .Arg<Any>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Units>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<Any>()
                           .Ret<Any>()
                           .Attr<int64_t>("element")
                           .Attr<int64_t>("columns")
                           .Attr<int64_t>("norm")
                           .Attr<float>("norm_eps")
                           .Attr<int64_t>("activation0")
                           .Attr<int64_t>("activation1"));

XLA_FFI_DEFINE_HANDLER(kAttention, AttentionCall,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Floats>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Units>()
                           .Ret<Any>()
                           .Ret<Units>()
                           .Attr<int64_t>("heads")
                           .Attr<int64_t>("kv_heads")
                           .Attr<int64_t>("head_dim")
                           .Attr<int64_t>("page_size")
                           .Attr<int64_t>("element")
                           .Attr<int64_t>("style")
                           .Attr<float>("query_scale"));

XLA_FFI_DEFINE_HANDLER(kChoice, ChoiceCall,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Floats>()
                           .Arg<Ints>()
                           .Ret<Floats>()
                           .Ret<Ints>()
                           .Ret<Floats>());

constexpr FfiHandler kHandlers[] = {
    {"sax_linear", kLinear}, {"sax_attention", kAttention}, {"sax_choice", kChoice}};

}  // namespace

std::span<const FfiHandler> FfiHandlers() { return kHandlers; }

}  // namespace sax::kernels
