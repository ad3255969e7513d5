// Packed weights: panels of 32 columns, and in each, for every unit of depth, the units of these
// columns side by side. A unit is 32 bits: one float32, two bfloat16 or four int8, stored 128 too
// large, that lie below one another in a column. What is missing to a multiple is zero.
//
//   std::vector<uint32_t> packed(PackedUnits(Element::kBf16, depth, columns));
//   Pack({.element = Element::kBf16, .depth = depth, .columns = columns}, block, packed.data());
#ifndef NATIVE_KERNELS_PACK_H_
#define NATIVE_KERNELS_PACK_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/linear.h"

namespace sax::kernels {

inline constexpr int kPanel = 32;

// Values in a unit.
constexpr int UnitCount(Element element) {
  return element == Element::kF32 ? 1 : element == Element::kBf16 ? 2 : 4;
}

// Rows of units of a panel; activations are padded to the same depth.
constexpr int UnitDepth(Element element, int depth) {
  return (depth + 31) / 32 * 32 / UnitCount(element);
}

// Units of 32 bits of a packed matrix.
constexpr size_t PackedUnits(Element element, int depth, int columns) {
  return static_cast<size_t>((columns + kPanel - 1) / kPanel) * UnitDepth(element, depth) * kPanel;
}

// Where the columns of a block go.
enum class Layout {
  kPlain,  // one after the other
  kGate,   // column c to the first half of a panel,
  kUp,     // or to the second: Activation::kSiluGated takes them in pairs
};

// Numbers of a block. kInt8 are packed as they are, and as int8 only.
enum class Number { kF32, kBf16, kInt8 };

// A piece of a matrix: values[row * row_stride + column * column_stride].
struct Block {
  const void* values;
  Number number;
  int rows;
  int columns;
  size_t row_stride;
  size_t column_stride;
  int first_row = 0;     // its place in the whole matrix
  int first_column = 0;  // for kGate and kUp: counted among their own
  Layout layout = Layout::kPlain;
};

// Writes a block into `packed`, which was zero at first. For kInt8, scale[c] of the packed columns
// must be set, see ColumnScales and PlaceScales. Throws std::invalid_argument for a block that lies
// outside, and for one of kInt8 in another matrix.
void Pack(const Weights& matrix, const Block& block, uint32_t* packed,
          const float* scale = nullptr);

// Raises scale[c], of the packed columns, to what this block needs: its largest magnitude / 127.
void ColumnScales(const Weights& matrix, const Block& block, float* scale);

// Sets scale[c], of the packed columns, to own[i] of the block's columns: those that its integers
// were made with.
void PlaceScales(const Weights& matrix, const Block& block, const float* own, float* scale);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_PACK_H_
