#include "native/kernels/pack.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace sax::kernels {
namespace {

// What pack.h says, value by value.
class Expected {
 public:
  Expected(Element element, int depth, int columns)
      : element_(element), depth_(depth), units_(PackedUnits(element, depth, columns)) {}

  void Put(int row, int packed_column, float value, float scale) {
    const int count = UnitCount(element_);
    const size_t unit =
        (static_cast<size_t>(packed_column / kPanel) * UnitDepth(element_, depth_) + row / count) *
            kPanel +
        packed_column % kPanel;
    units_[unit] |= Bits(value, scale) << (32 / count * (row % count));
  }

  const std::vector<uint32_t>& units() const { return units_; }

 private:
  uint32_t Bits(float value, float scale) const {
    if (element_ == Element::kF32) return std::bit_cast<uint32_t>(value);
    if (element_ == Element::kBf16) return std::bit_cast<uint32_t>(value) >> 16;
    return static_cast<uint8_t>(static_cast<int>(std::nearbyint(value / scale)) + 128);
  }

  Element element_;
  int depth_;
  std::vector<uint32_t> units_;
};

int PackedColumn(Layout layout, int column) {
  if (layout == Layout::kPlain) return column;
  return column / 16 * 32 + column % 16 + (layout == Layout::kUp ? 16 : 0);
}

// Small whole numbers, which every format holds.
struct Values {
  Values(Number number, int rows, int columns, bool transposed, std::mt19937* random)
      : number(number), columns(columns), values(rows * columns) {
    for (auto& value : values)
      value = static_cast<float>(static_cast<int>((*random)() % 255) - 127);
    row_stride = transposed ? 1 : columns;
    column_stride = transposed ? rows : 1;
    for (float value : values) {
      floats.push_back(value);
      halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
      integers.push_back(static_cast<int8_t>(value));
    }
  }

  float At(int row, int column) const { return values[row * row_stride + column * column_stride]; }

  const void* data() const {
    if (number == Number::kF32) return floats.data();
    if (number == Number::kBf16) return halves.data();
    return integers.data();
  }

  Number number;
  int columns;
  std::vector<float> values;
  size_t row_stride, column_stride;
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  std::vector<int8_t> integers;
};

TEST(PackTest, BlocksBelowOneAnotherLieWhereTheyBelong) {
  std::mt19937 random(1);
  for (int round = 0; round < 400; ++round) {
    const auto element = static_cast<Element>(random() % 3);
    const auto number = static_cast<Number>(random() % (element == Element::kInt8 ? 3 : 2));
    const auto layout = static_cast<Layout>(random() % 3);
    const int rows[] = {static_cast<int>(random() % 9), static_cast<int>(random() % 300)};
    const int columns = 1 + random() % 100;
    const int first_column = random() % 50;
    const int depth = rows[0] + rows[1];
    const int packed_columns = PackedColumn(layout, first_column + columns - 1) + 1;
    const Weights matrix = {.element = element, .depth = depth, .columns = packed_columns};
    Expected expected(element, depth, packed_columns);
    std::vector<uint32_t> units(PackedUnits(element, depth, packed_columns));
    const std::vector<float> scale((packed_columns + kPanel - 1) / kPanel * kPanel, 1.0f);
    int first_row = 0;
    for (int count : rows) {
      const Values values(number, count, columns, random() % 2, &random);
      const Block block = {
          values.data(),        number,    count,        columns, values.row_stride,
          values.column_stride, first_row, first_column, layout};
      Pack(matrix, block, units.data(), element == Element::kInt8 ? scale.data() : nullptr);
      for (int row = 0; row < count; ++row) {
        for (int column = 0; column < columns; ++column) {
          expected.Put(first_row + row, PackedColumn(layout, first_column + column),
                       values.At(row, column), 1);
        }
      }
      first_row += count;
    }
    ASSERT_EQ(units, expected.units()) << "round " << round;
  }
}

TEST(PackTest, FloatsAreRoundedToTheNearestEvenBf16) {
  const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x7f800000, 0x7fc00001, 0xff7fffff};
  const uint16_t rounded[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x7fc0, 0xff80};
  float values[6];
  std::memcpy(values, bits, sizeof(values));
  std::vector<uint32_t> units(PackedUnits(Element::kBf16, 1, 6));
  Pack({.element = Element::kBf16, .depth = 1, .columns = 6}, {values, Number::kF32, 1, 6, 6, 1},
       units.data());
  for (int c = 0; c < 6; ++c) EXPECT_EQ(units[c], rounded[c]) << c;
}

TEST(PackTest, ScalesAreTheLargestMagnitudesOf127) {
  const float values[] = {1, -127, 0, 3, 2, 0};  // three rows of two columns
  std::vector<float> scale(kPanel);
  ColumnScales({.element = Element::kInt8, .depth = 3, .columns = 3},
               {values, Number::kF32, 3, 2, 2, 1, 0, /*first_column=*/1}, scale.data());
  EXPECT_EQ(scale[0], 0);
  EXPECT_EQ(scale[1], 2.0f / 127);
  EXPECT_EQ(scale[2], 1);
}

}  // namespace
}  // namespace sax::kernels
