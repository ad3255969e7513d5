#include "native/kernels/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "native/base/str_cat.h"

namespace sax::kernels {
namespace {

float Value(const Block& block, int row, int column) {
  const size_t place = row * block.row_stride + column * block.column_stride;
  if (block.number == Number::kF32) return static_cast<const float*>(block.values)[place];
  if (block.number == Number::kInt8) return static_cast<const int8_t*>(block.values)[place];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(block.values)[place]} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The integer that stands for a value where the column's scale is `scale`.
int8_t Integer(const Block& block, float value, float scale) {
  if (block.number == Number::kInt8) return static_cast<int8_t>(value);
  const float scaled = scale > 0 ? std::nearbyint(value / scale) : 0;
  return static_cast<int8_t>(std::clamp(scaled, -127.0f, 127.0f));
}

// Rounded to the nearest, ties to even; NaN stays NaN.
uint16_t Bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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

// A panel's columns together: they lie in the same lines of what is written.
template <class Do>
void ForEach(const Block& block, Do&& act) {
  for (int first = 0; first < block.columns; first += kPanel) {
    const int last = std::min(first + kPanel, block.columns);
    for (int row = 0; row < block.rows; ++row) {
      for (int column = first; column < last; ++column) act(row, column, Value(block, row, column));
    }
  }
}

}  // namespace

void ColumnScales(const Weights& matrix, const Block& block, float* scale) {
  Check(matrix, block);
  ForEach(block, [&](int, int column, float value) {
    float& own = scale[PackedColumn(block, column)];
    own = std::max(own, std::abs(value) / 127);
  });
}

void PlaceScales(const Weights& matrix, const Block& block, const float* own, float* scale) {
  Check(matrix, block);
  for (int i = 0; i < block.columns; ++i) scale[PackedColumn(block, i)] = own[i];
}

void Pack(const Weights& matrix, const Block& block, uint32_t* packed, const float* scale) {
  Check(matrix, block);
  const int count = UnitCount(matrix.element);
  const size_t depth = UnitDepth(matrix.element, matrix.depth);
  ForEach(block, [&](int row, int column, float value) {
    const int k = block.first_row + row, c = PackedColumn(block, column);
    uint32_t* const unit = packed + (c / kPanel * depth + k / count) * kPanel + c % kPanel;
    switch (matrix.element) {
      case Element::kF32:
        std::memcpy(unit, &value, 4);
        break;
      case Element::kBf16: {
        const uint16_t rounded = Bf16(value);
        std::memcpy(reinterpret_cast<uint16_t*>(unit) + k % count, &rounded, 2);
        break;
      }
      case Element::kInt8: {
        const auto integer = static_cast<uint8_t>(Integer(block, value, scale[c]) + 128);
        std::memcpy(reinterpret_cast<uint8_t*>(unit) + k % count, &integer, 1);
        break;
      }
    }
  });
}

}  // namespace sax::kernels
