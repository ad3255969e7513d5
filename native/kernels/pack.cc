#include "native/kernels/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "native/base/str_cat.h"

namespace sax::kernels {
namespace {

template <Number number>
using Stored = std::conditional_t<number == Number::kF32, float,
                                  std::conditional_t<number == Number::kInt8, int8_t, uint16_t>>;

float Float(float value) { return value; }
float Float(int8_t value) { return value; }
float Float(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Rounded to the nearest, ties to even; NaN stays NaN.
uint16_t Bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What a value becomes in a matrix, in the low bits; scale is its column's.
template <Element element, class Value>
uint32_t Packed(Value value, float scale) {
  if constexpr (element == Element::kF32) {
    const float wide = Float(value);
    uint32_t bits;
    std::memcpy(&bits, &wide, 4);
    return bits;
  } else if constexpr (element == Element::kInt8) {
    if constexpr (std::is_same_v<Value, int8_t>) return static_cast<uint8_t>(value + 128);
    const float scaled = scale > 0 ? std::nearbyint(Float(value) / scale) : 0;
    return static_cast<uint8_t>(static_cast<int>(std::clamp(scaled, -127.0f, 127.0f)) + 128);
  } else if constexpr (std::is_same_v<Value, uint16_t>) {
    return value;
  } else {
    return Bf16(Float(value));
  }
}

int PackedColumn(const Block& block, int column) {
  const int c = block.first_column + column;
  if (block.layout == Layout::kPlain) return c;
  constexpr int kHalf = kPanel / 2;
  return c / kHalf * kPanel + c % kHalf + (block.layout == Layout::kUp ? kHalf : 0);
}

void Check(const Weights& matrix, const Block& block) {
  const int last = block.columns == 0 ? -1 : PackedColumn(block, block.columns - 1);
  if (block.first_row < 0 || block.first_column < 0 || block.rows < 0 || block.columns < 0 ||
      block.first_row + block.rows > matrix.depth || last >= matrix.columns) {
    throw std::invalid_argument(StrCat(
        "a block of ", block.rows, " x ", block.columns, " at ", block.first_row, ", ",
        block.first_column, " does not lie in a matrix of ", matrix.depth, " x ", matrix.columns));
  }
  if (block.number == Number::kInt8 && matrix.element != Element::kInt8) {
    throw std::invalid_argument("int8 values are for a matrix of int8");
  }
}

// Columns of a block that lie beside each other in a panel, too.
struct Run {
  int first;   // in the block
  int packed;  // of the packed columns
  int count;
};

template <class Do>
void ForEachRun(const Block& block, Do&& act) {
  const int most = block.layout == Layout::kPlain ? kPanel : kPanel / 2;
  for (int first = 0; first < block.columns;) {
    const int packed = PackedColumn(block, first);
    const int count = std::min(block.columns - first, most - packed % most);
    act(Run{first, packed, count});
    first += count;
  }
}

// Whole units of `count` rows below one another, from `values` on.
template <Element element, class Value>
uint32_t Unit(const Value* values, size_t row_stride, float scale) {
  constexpr int kCount = UnitCount(element);
  uint32_t unit = 0;
  for (int i = 0; i < kCount; ++i) {
    unit |= Packed<element>(values[i * row_stride], scale) << (32 / kCount * i);
  }
  return unit;
}

// `units` rows of units of a run. Whichever way the values lie, they are read one after the other,
// and what is written stays in the first cache meanwhile.
template <Element element, class Value>
void PackUnits(const Block& block, const Run& run, const Value* values, int units,
               const float* scale, uint32_t* to) {
  constexpr int kCount = UnitCount(element), kTile = 64;
  const size_t rows = block.row_stride, columns = block.column_stride;
  const auto at = [&](int column) { return scale == nullptr ? 0.0f : scale[run.packed + column]; };
  if (columns == 1) {
    for (int u = 0; u < units; ++u, values += kCount * rows, to += kPanel) {
      if (run.count == kPanel && element != Element::kInt8) {  // GCC makes vectors of this
        for (int c = 0; c < kPanel; ++c) to[c] = Unit<element>(values + c, rows, 0);
      } else {
        for (int c = 0; c < run.count; ++c) to[c] = Unit<element>(values + c, rows, at(c));
      }
    }
    return;
  }
  for (int first = 0; first < units; first += kTile) {
    const int last = std::min(first + kTile, units);
    for (int c = 0; c < run.count; ++c) {
      for (int u = first; u < last; ++u) {
        to[u * kPanel + c] = Unit<element>(values + u * kCount * rows + c * columns, rows, at(c));
      }
    }
  }
}

template <Element element, Number number>
void PackAs(const Weights& matrix, const Block& block, uint32_t* packed, const float* scale) {
  constexpr int kCount = UnitCount(element);
  const size_t depth = UnitDepth(element, matrix.depth);
  const auto* const values = static_cast<const Stored<number>*>(block.values);
  // Rows before the first whole unit, and those behind the last one.
  const int head = std::min((kCount - block.first_row % kCount) % kCount, block.rows);
  const int units = (block.rows - head) / kCount;
  ForEachRun(block, [&](const Run& run) {
    uint32_t* const panel = packed + run.packed / kPanel * depth * kPanel + run.packed % kPanel;
    const Stored<number>* const first = values + run.first * block.column_stride;
    const auto one = [&](int row) {
      const int k = block.first_row + row;
      for (int c = 0; c < run.count; ++c) {
        const float own = scale == nullptr ? 0 : scale[run.packed + c];
        const auto value = first[row * block.row_stride + c * block.column_stride];
        panel[k / kCount * kPanel + c] |= Packed<element>(value, own)
                                          << (32 / kCount * (k % kCount));
      }
    };
    for (int row = 0; row < head; ++row) one(row);
    PackUnits<element>(block, run, first + head * block.row_stride, units, scale,
                       panel + (block.first_row + head) / kCount * kPanel);
    for (int row = head + units * kCount; row < block.rows; ++row) one(row);
  });
}

template <Element element>
void PackFrom(const Weights& matrix, const Block& block, uint32_t* packed, const float* scale) {
  switch (block.number) {
    case Number::kF32:
      return PackAs<element, Number::kF32>(matrix, block, packed, scale);
    case Number::kBf16:
      return PackAs<element, Number::kBf16>(matrix, block, packed, scale);
    case Number::kInt8:
      return PackAs<element, Number::kInt8>(matrix, block, packed, scale);
  }
}

template <class Value>
void RaiseScales(const Block& block, float* scale) {
  const auto* const values = static_cast<const Value*>(block.values);
  ForEachRun(block, [&](const Run& run) {
    for (int row = 0; row < block.rows; ++row) {
      for (int c = 0; c < run.count; ++c) {
        const size_t place = row * block.row_stride + (run.first + c) * block.column_stride;
        float& own = scale[run.packed + c];
        own = std::max(own, std::abs(Float(values[place])) / 127);
      }
    }
  });
}

}  // namespace

void ColumnScales(const Weights& matrix, const Block& block, float* scale) {
  Check(matrix, block);
  switch (block.number) {
    case Number::kF32:
      return RaiseScales<float>(block, scale);
    case Number::kBf16:
      return RaiseScales<uint16_t>(block, scale);
    case Number::kInt8:
      return RaiseScales<int8_t>(block, scale);
  }
}

void PlaceScales(const Weights& matrix, const Block& block, const float* own, float* scale) {
  Check(matrix, block);
  for (int i = 0; i < block.columns; ++i) scale[PackedColumn(block, i)] = own[i];
}

void Pack(const Weights& matrix, const Block& block, uint32_t* packed, const float* scale) {
  Check(matrix, block);
  switch (matrix.element) {
    case Element::kF32:
      return PackFrom<Element::kF32>(matrix, block, packed, scale);
    case Element::kBf16:
      return PackFrom<Element::kBf16>(matrix, block, packed, scale);
    case Element::kInt8:
      return PackFrom<Element::kInt8>(matrix, block, packed, scale);
  }
}

}  // namespace sax::kernels
