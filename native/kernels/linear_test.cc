#include "native/kernels/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/kernels/level.h"
#include "native/kernels/pack.h"

namespace sax::kernels {
namespace {

using Floats = std::vector<float>;
using Halves = std::vector<uint16_t>;

float Rounded(float value) {  // to bfloat16 and back
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  std::memcpy(&value, &bits, 4);
  return value;
}

Halves ToHalves(const Floats& values) {
  Halves halves;
  for (float value : values) {
    const float rounded = Rounded(value);
    uint32_t bits;
    std::memcpy(&bits, &rounded, 4);
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return halves;
}

float FromHalf(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

class LinearTest : public testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    if (GetParam() > BestLevel()) GTEST_SKIP() << "this CPU has no " << Name(GetParam());
    SetLevel(GetParam());
  }
  void TearDown() override { SetLevel(BestLevel()); }

  Floats Random(size_t count, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    Floats values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  // A packed matrix of depth x columns.
  struct Packed {
    std::vector<uint32_t> units;
    Floats scale;
    Weights weights;
  };

  static Packed Make(Element element, const Floats& w, int depth, int columns) {
    Packed packed;
    const int padded = (columns + kPanel - 1) / kPanel * kPanel;
    packed.units.resize(PackedUnits(element, depth, columns));
    packed.scale.resize(padded);
    packed.weights = {element, depth, columns, packed.units.data(), packed.scale.data()};
    const Block all = {w.data(), Number::kF32, depth, columns, static_cast<size_t>(columns), 1};
    if (element == Element::kInt8) ColumnScales(packed.weights, all, packed.scale.data());
    Pack(packed.weights, all, packed.units.data(), packed.scale.data());
    return packed;
  }

  // The product in double precision, of what the element makes of both sides.
  static std::vector<double> Expected(const Packed& packed, const Floats& x, const Floats& w,
                                      int rows) {
    const auto [element, depth, columns, data, scale] = packed.weights;
    std::vector<double> y(static_cast<size_t>(rows) * columns);
    for (int r = 0; r < rows; ++r) {
      Floats largest(depth);  // of the 64 values around each
      for (int k = 0; k < depth; ++k) {
        for (int i = k / 64 * 64; i < std::min(depth, k / 64 * 64 + 64); ++i) {
          largest[k] = std::max(largest[k], std::abs(x[r * depth + i]));
        }
      }
      for (int c = 0; c < columns; ++c) {
        double total = 0;
        for (int k = 0; k < depth; ++k) {
          const float a = x[r * depth + k], b = w[k * columns + c];
          if (element == Element::kF32) {
            total += double{a} * b;
          } else if (element == Element::kBf16) {
            total += double{Rounded(a)} * Rounded(b);
          } else {
            const float inverse = 127 / largest[k];
            // The levels above multiply and add at once.
            const double scaled =
                GetParam() == Level::kPortable ? a * inverse : double{a} * inverse;
            total += std::nearbyint(scaled) * std::nearbyint(b / scale[c]) * scale[c] *
                     (double{largest[k]} / 127);
          }
        }
        y[static_cast<size_t>(r) * columns + c] = total;
      }
    }
    return y;
  }

  SerialRunner serial_;
  std::mt19937 random_{7};
};

TEST_P(LinearTest, ProductsOfAllShapes) {
  for (Element element : {Element::kF32, Element::kBf16, Element::kInt8}) {
    for (int rows : {1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 25, 49, 150}) {
      for (auto [depth, columns] : {std::pair{64, 32}, {33, 1}, {100, 70}, {7, 97}, {2080, 64}}) {
        if (rows > 25 && depth > 1000 && GetParam() < Level::kAvx512) continue;
        SCOPED_TRACE(testing::Message() << "element " << static_cast<int>(element) << ", " << rows
                                        << " x " << depth << " x " << columns);
        const Floats x = Random(static_cast<size_t>(rows) * depth);
        const Floats w = Random(static_cast<size_t>(depth) * columns, 0.1f);
        const Packed packed = Make(element, w, depth, columns);
        Floats y(static_cast<size_t>(rows) * columns + 1, 77);
        Linear linear{.rows = rows,
                      .inputs = {{x.data(), depth, Format::kF32}},
                      .num_inputs = 1,
                      .weights = packed.weights,
                      .outputs = {{.columns = columns, .data = y.data()}}};
        Compute(linear, &serial_);
        const std::vector<double> expected = Expected(packed, x, w, rows);
        // float32 sums of `depth` products of about 0.1, in another order.
        const double tolerance = 1e-6 * std::sqrt(depth) + 2e-5;
        for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(y[i], expected[i], tolerance) << i;
        EXPECT_EQ(y.back(), 77) << "written past the end";
      }
    }
  }
}

TEST_P(LinearTest, TwoInputsBiasResidualAndTwoOutputs) {
  const int rows = 5, first = 40, second = 24, left = 64, right = 33, depth = first + second;
  const Floats a = Random(rows * first), b = Random(rows * second);
  const Floats w = Random(depth * (left + right), 0.1f), bias = Random(left + right);
  const Floats residual = Random(rows * left);
  const Halves b_half = ToHalves(b);
  Floats x;
  for (int r = 0; r < rows; ++r) {
    x.insert(x.end(), a.begin() + r * first, a.begin() + (r + 1) * first);
    for (int k = 0; k < second; ++k) x.push_back(Rounded(b[r * second + k]));
  }
  const Packed packed = Make(Element::kBf16, w, depth, left + right);
  Floats y(rows * left);
  Halves z(rows * right);
  Compute({.rows = rows,
           .inputs = {{a.data(), first, Format::kF32}, {b_half.data(), second, Format::kBf16}},
           .num_inputs = 2,
           .weights = packed.weights,
           .bias = bias.data(),
           .outputs = {{.columns = left, .data = y.data(), .residual = residual.data()},
                       {.columns = right,
                        .data = z.data(),
                        .format = Format::kBf16,
                        .activation = Activation::kGelu}},
           .num_outputs = 2},
          &serial_);
  const std::vector<double> product = Expected(packed, x, w, rows);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < left + right; ++c) {
      const double v = product[r * (left + right) + c] + bias[c];
      if (c < left) {
        EXPECT_NEAR(y[r * left + c], v + residual[r * left + c], 1e-5);
      } else {
        const double gelu =
            v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        EXPECT_NEAR(FromHalf(z[r * right + c - left]), gelu, 1e-5 + std::abs(gelu) / 256);
      }
    }
  }
}

TEST_P(LinearTest, NormsComeBeforeTheProduct) {
  const int rows = 3, depth = 70, columns = 32;
  const Floats x = Random(rows * depth, 3), scale = Random(depth), shift = Random(depth);
  const Floats w = Random(depth * columns, 0.1f);
  const Packed packed = Make(Element::kF32, w, depth, columns);
  for (Norm norm : {Norm::kLayer, Norm::kRms}) {
    Floats normed;
    for (int r = 0; r < rows; ++r) {
      double mean = 0, square = 0;
      for (int k = 0; k < depth; ++k) mean += x[r * depth + k] / double{depth};
      if (norm == Norm::kRms) mean = 0;
      for (int k = 0; k < depth; ++k) square += std::pow(x[r * depth + k] - mean, 2) / depth;
      for (int k = 0; k < depth; ++k) {
        const double v = (x[r * depth + k] - mean) / std::sqrt(square + 1e-5) * scale[k];
        normed.push_back(static_cast<float>(v + (norm == Norm::kLayer ? shift[k] : 0)));
      }
    }
    Floats y(rows * columns);
    Compute({.rows = rows,
             .inputs = {{x.data(), depth, Format::kF32}},
             .num_inputs = 1,
             .norm = norm,
             .norm_scale = scale.data(),
             .norm_bias = norm == Norm::kLayer ? shift.data() : nullptr,
             .norm_eps = 1e-5f,
             .weights = packed.weights,
             .outputs = {{.columns = columns, .data = y.data()}}},
            &serial_);
    const std::vector<double> expected = Expected(packed, normed, w, rows);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(y[i], expected[i], 2e-5);
  }
}

TEST_P(LinearTest, GatedColumnsGoInPairs) {
  const int rows = 6, depth = 48, half = 64;
  const Floats x = Random(rows * depth), gate = Random(depth * half, 0.2f),
               up = Random(depth * half);
  std::vector<uint32_t> units(PackedUnits(Element::kF32, depth, 2 * half));
  const Weights weights = {Element::kF32, depth, 2 * half, units.data()};
  for (const auto& [values, layout] : {std::pair{&gate, Layout::kGate}, {&up, Layout::kUp}}) {
    Pack(weights,
         {values->data(), Number::kF32, depth, half, half, 1, /*first_row=*/0, /*first_column=*/0,
          layout},
         units.data());
  }
  Floats y(rows * half);
  Compute(
      {.rows = rows,
       .inputs = {{x.data(), depth, Format::kF32}},
       .num_inputs = 1,
       .weights = weights,
       .outputs = {{.columns = 2 * half, .data = y.data(), .activation = Activation::kSiluGated}}},
      &serial_);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < half; ++c) {
      double g = 0, u = 0;
      for (int k = 0; k < depth; ++k) {
        g += double{x[r * depth + k]} * gate[k * half + c];
        u += double{x[r * depth + k]} * up[k * half + c];
      }
      EXPECT_NEAR(y[r * half + c], g / (1 + std::exp(-g)) * u, 1e-4);
    }
  }
}

// Whatever a row holds, the others' results are theirs, and a NaN does not vanish.
TEST_P(LinearTest, ARowWithNaNSpoilsOnlyItself) {
  const int rows = 14, depth = 64, columns = 40;
  for (Element element : {Element::kF32, Element::kBf16, Element::kInt8}) {
    const Floats w = Random(depth * columns, 0.1f);
    const Packed packed = Make(element, w, depth, columns);
    Floats x = Random(rows * depth);
    Floats y(rows * columns), clean(rows * columns);
    Linear linear{.rows = rows,
                  .inputs = {{x.data(), depth, Format::kF32}},
                  .num_inputs = 1,
                  .weights = packed.weights,
                  .outputs = {{.columns = columns, .data = clean.data()}}};
    Compute(linear, &serial_);
    x[3 * depth + 5] = std::numeric_limits<float>::quiet_NaN();
    x[9 * depth + 60] = std::numeric_limits<float>::infinity();
    linear.outputs[0].data = y.data();
    Compute(linear, &serial_);
    for (int i = 0; i < rows * columns; ++i) {
      if (i / columns == 3 || i / columns == 9) {
        EXPECT_FALSE(std::isfinite(y[i])) << static_cast<int>(element) << " " << i;
      } else {
        EXPECT_EQ(y[i], clean[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, LinearTest,
                         testing::Values(Level::kPortable, Level::kAvx2, Level::kAvx512,
                                         Level::kAvx512Bf16),
                         [](const auto& level) { return std::string(Name(level.param)); });

TEST(LinearCheckTest, SizesThatDoNotFitAreRefused) {
  SerialRunner serial;
  Linear linear{.rows = 1, .inputs = {{nullptr, 8, Format::kF32}}, .num_inputs = 1};
  linear.weights = {Element::kF32, 9, 32, nullptr};
  linear.outputs[0].columns = 32;
  EXPECT_THROW(Compute(linear, &serial), std::invalid_argument);
  linear.weights.depth = 8;
  linear.outputs[0].columns = 31;
  EXPECT_THROW(Compute(linear, &serial), std::invalid_argument);
  linear.outputs[0] = {.columns = 16};
  linear.outputs[1] = {.columns = 16};
  linear.num_outputs = 2;
  EXPECT_THROW(Compute(linear, &serial), std::invalid_argument);
}

// What was made into int8 elsewhere is packed as it is: the result is that of the values it stands
// for, packed here.
TEST(PackTest, IntegersAndTheirScalesAreTakenOver) {
  const int depth = 9, columns = 70;
  std::mt19937 random(3);
  std::vector<int8_t> integers(depth * columns);
  for (auto& value : integers) value = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  Floats own(columns), values(depth * columns);
  for (int c = 0; c < columns; ++c) {
    integers[c] = 127;  // so that the scale found here is the same
    own[c] = std::ldexp(1.0f, -static_cast<int>(random() % 8));
    for (int k = 0; k < depth; ++k) values[k * columns + c] = integers[k * columns + c] * own[c];
  }
  for (Layout layout : {Layout::kPlain, Layout::kGate, Layout::kUp}) {
    const Weights matrix = {Element::kInt8, depth, 192};
    const auto pack = [&](const void* data, Number number) {
      const Block block = {data, number, depth, columns, columns, 1, 0, 16, layout};
      std::vector<uint32_t> units(PackedUnits(Element::kInt8, depth, matrix.columns));
      Floats scale(matrix.columns);
      if (number == Number::kInt8) {
        PlaceScales(matrix, block, own.data(), scale.data());
      } else {
        ColumnScales(matrix, block, scale.data());
      }
      Pack(matrix, block, units.data(), scale.data());
      return std::pair(units, scale);
    };
    EXPECT_EQ(pack(integers.data(), Number::kInt8), pack(values.data(), Number::kF32));
  }
  std::vector<uint32_t> units(PackedUnits(Element::kBf16, depth, columns));
  const Block block = {integers.data(), Number::kInt8, depth, columns, columns, 1};
  EXPECT_THROW(Pack({Element::kBf16, depth, columns}, block, units.data()), std::invalid_argument);
}

TEST(LevelTest, NamesThatAreNoneListThoseThatAre) {
  EXPECT_EQ(LevelOf("avx2"), Level::kAvx2);
  EXPECT_THROW(LevelOf("sse"), std::invalid_argument);
}

}  // namespace
}  // namespace sax::kernels
