// saxml.kernels: the CPU kernels, as capsules for jax.ffi, and the packing of weights.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/base/str_cat.h"
#include "native/kernels/attention.h"
#include "native/kernels/ffi.h"
#include "native/kernels/level.h"
#include "native/kernels/pack.h"

namespace py = pybind11;

namespace sax::kernels {
namespace {

using Units = py::array_t<uint32_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

Element ElementOf(const std::string& name) {
  if (name == "float32") return Element::kF32;
  if (name == "bfloat16") return Element::kBf16;
  if (name == "int8") return Element::kInt8;
  throw std::invalid_argument(
      StrCat("weights as ", name, "; they may be float32, bfloat16 or int8"));
}

Layout LayoutOf(const std::string& name) {
  if (name == "plain") return Layout::kPlain;
  if (name == "gate") return Layout::kGate;
  if (name == "up") return Layout::kUp;
  throw std::invalid_argument(StrCat("layout ", name, " is none of plain, gate, up"));
}

Number NumberOf(const py::dtype& dtype) {
  if (dtype.is(py::dtype::of<float>())) return Number::kF32;
  if (dtype.is(py::dtype::of<uint16_t>())) return Number::kBf16;
  if (dtype.is(py::dtype::of<int8_t>())) return Number::kInt8;
  throw std::invalid_argument("a block is float32, int8, or bfloat16 seen as uint16");
}

Block BlockOf(const py::array& values, int first_row, int first_column, const std::string& layout) {
  if (values.ndim() != 2) throw std::invalid_argument("a block has two dimensions");
  const auto stride = [&](int axis) {
    return static_cast<size_t>(values.strides(axis) / values.itemsize());
  };
  return {values.data(),
          NumberOf(values.dtype()),
          static_cast<int>(values.shape(0)),
          static_cast<int>(values.shape(1)),
          stride(0),
          stride(1),
          first_row,
          first_column,
          LayoutOf(layout)};
}

int PaddedColumns(int columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

// What an array must be as long as.
template <class Array>
void RequireSize(const char* what, const Array& array, size_t wanted) {
  if (static_cast<size_t>(array.size()) != wanted) {
    throw std::invalid_argument(
        StrCat(what, " has ", array.size(), " numbers; ", wanted, " are wanted"));
  }
}

void ColumnScalesOf(Floats scale, int depth, int columns, const py::array& values, int first_column,
                    const std::string& layout) {
  RequireSize("scale", scale, PaddedColumns(columns));
  const Block block = BlockOf(values, 0, first_column, layout);
  float* const to = scale.mutable_data();
  py::gil_scoped_release release;
  ColumnScales({.element = Element::kInt8, .depth = depth, .columns = columns}, block, to);
}

void PlaceScalesOf(Floats scale, int columns, const Floats& own, int first_column,
                   const std::string& layout) {
  RequireSize("scale", scale, PaddedColumns(columns));
  const Block block = {.values = nullptr,
                       .number = Number::kInt8,
                       .rows = 0,
                       .columns = static_cast<int>(own.size()),
                       .row_stride = 0,
                       .column_stride = 0,
                       .first_column = first_column,
                       .layout = LayoutOf(layout)};
  PlaceScales({.element = Element::kInt8, .columns = columns}, block, own.data(),
              scale.mutable_data());
}

void PackInto(Units packed, const std::string& element, int depth, int columns,
              const py::array& values, int first_row, int first_column, const std::string& layout,
              const std::optional<Floats>& scale) {
  const Weights matrix = {.element = ElementOf(element), .depth = depth, .columns = columns};
  RequireSize("packed", packed, PackedUnits(matrix.element, depth, columns));
  if (matrix.element == Element::kInt8) {
    if (!scale) throw std::invalid_argument("int8 needs a scale");
    RequireSize("scale", *scale, PaddedColumns(columns));
  }
  const Block block = BlockOf(values, first_row, first_column, layout);
  uint32_t* const to = packed.mutable_data();
  const float* const scales = scale ? scale->data() : nullptr;
  py::gil_scoped_release release;
  Pack(matrix, block, to, scales);
}

std::map<std::string, py::capsule> Handlers() {
  std::map<std::string, py::capsule> handlers;
  for (const FfiHandler& handler : FfiHandlers()) {
    handlers.emplace(handler.name, py::capsule(reinterpret_cast<void*>(handler.handler)));
  }
  return handlers;
}

PYBIND11_MODULE(kernels, m) {
  m.doc() = "CPU kernels of saxml.ops: handlers for jax.ffi, and weights packed for them.";
  m.def("handlers", &Handlers, "The handlers by the names under which jax.ffi is to know them.");
  m.def(
      "levels",
      [] {
        std::vector<std::string> names;
        for (int i = 0; i <= static_cast<int>(BestLevel()); ++i) {
          names.emplace_back(Name(static_cast<Level>(i)));
        }
        return names;
      },
      "Levels that this CPU has, the best last.");
  m.def("level", [] { return std::string(Name(CurrentLevel())); }, "The level in use.");
  m.def(
      "set_level", [](const std::string& name) { SetLevel(LevelOf(name)); }, py::arg("name"),
      "Have kernels use this level. ValueError for one that this CPU has not.");
  m.def(
      "packed_units",
      [](const std::string& element, int depth, int columns) {
        return PackedUnits(ElementOf(element), depth, columns);
      },
      py::arg("element"), py::arg("depth"), py::arg("columns"),
      "Units of 32 bits of a packed matrix; element is float32, bfloat16 or int8.");
  m.def(
      "head_page_units",
      [](const std::string& element, int head_dim, int page_size) {
        return HeadPageUnits({1, head_dim, page_size, ElementOf(element)});
      },
      py::arg("element"), py::arg("head_dim"), py::arg("page_size"),
      "Units of 32 bits of one page of one layer for one kv head.");
  m.def(
      "column_scales", &ColumnScalesOf, py::arg("scale").noconvert(), py::arg("depth"),
      py::arg("columns"), py::arg("values"), py::arg("first_column") = 0,
      py::arg("layout") = "plain",
      R"(Raise scale[c], f32[columns to a multiple of 32], to what int8 needs for these values.)");
  m.def("place_scales", &PlaceScalesOf, py::arg("scale").noconvert(), py::arg("columns"),
        py::arg("own").noconvert(), py::arg("first_column") = 0, py::arg("layout") = "plain",
        R"(Set scale[c], f32[columns to a multiple of 32], to own f32[n] of n columns.)");
  m.def("pack", &PackInto, py::arg("packed").noconvert(), py::arg("element"), py::arg("depth"),
        py::arg("columns"), py::arg("values"), py::arg("first_row") = 0,
        py::arg("first_column") = 0, py::arg("layout") = "plain",
        py::arg("scale").noconvert() = py::none(),
        R"(Write a block of a matrix into packed u32[packed_units], which was zero at first.

values: f32[rows, columns], or bfloat16 seen as uint16, with any strides; in a matrix of
int8 also int8, which is kept as it is. layout "gate" and "up": the two halves of columns
that are multiplied with each other. int8 needs the scale of column_scales or place_scales.
ValueError for what does not lie inside.)");
}

}  // namespace
}  // namespace sax::kernels
