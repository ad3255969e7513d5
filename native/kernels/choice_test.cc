#include "native/kernels/choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/kernels/level.h"

namespace sax::kernels {
namespace {

using Floats = std::vector<float>;

class ChoiceTest : public testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    if (GetParam() > BestLevel()) GTEST_SKIP() << "this CPU has no " << Name(GetParam());
    SetLevel(GetParam());
  }
  void TearDown() override { SetLevel(BestLevel()); }

  void Choose(const Floats& logits, int rows, int best) {
    const int columns = static_cast<int>(logits.size()) / rows;
    values.assign(rows * best, 0);
    indices.assign(rows * best, -1);
    log_sum.assign(rows, 0);
    SerialRunner serial;
    Compute({.rows = rows,
             .columns = columns,
             .best = best,
             .logits = logits.data(),
             .values = values.data(),
             .indices = indices.data(),
             .log_sum = log_sum.data()},
            &serial);
  }

  void ExpectRight(const Floats& logits, int rows, int best) {
    Choose(logits, rows, best);
    const int columns = static_cast<int>(logits.size()) / rows;
    for (int row = 0; row < rows; ++row) {
      const float* own = logits.data() + static_cast<size_t>(row) * columns;
      std::vector<int32_t> order(columns);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [own](int a, int b) { return own[a] > own[b]; });
      double sum = 0;
      for (int i = 0; i < columns; ++i) sum += std::exp(double{own[i]} - own[order[0]]);
      ASSERT_NEAR(log_sum[row], std::log(sum), 2e-6 * (1 + std::log(sum)));
      for (int i = 0; i < best; ++i) {
        ASSERT_EQ(indices[row * best + i], order[i]) << "rank " << i << " of row " << row;
        ASSERT_EQ(values[row * best + i], own[order[i]]);
      }
    }
  }

  Floats values, log_sum;
  std::vector<int32_t> indices;
};

TEST_P(ChoiceTest, RandomLogitsOfAllSizes) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  for (int columns : {1, 2, 15, 16, 33, 64, 97, 1000, 5041}) {
    for (int best : {1, 2, 5, 40, 64, 65, 200}) {
      if (best > columns) continue;
      Floats logits(3 * columns);
      for (float& x : logits) x = normal(random);
      ExpectRight(logits, 3, best);
    }
  }
}

TEST_P(ChoiceTest, OfEqualOnesTheLowestComesFirst) {
  std::mt19937 random(4);
  Floats logits(2000);
  for (float& x : logits) x = static_cast<float>(random() % 3);
  ExpectRight(logits, 2, 50);
  ExpectRight(Floats(300, 1.5f), 1, 70);
}

TEST_P(ChoiceTest, MinusInfinityIsOnlyUnlikely) {
  Floats logits(200, -std::numeric_limits<float>::infinity());
  logits[150] = 2;
  logits[20] = 1;
  ExpectRight(logits, 1, 2);
  Choose(logits, 1, 5);
  EXPECT_EQ(indices, (std::vector<int32_t>{150, 20, 0, 1, 2}));
}

TEST_P(ChoiceTest, NaNShowsInTheMassAndIndicesStayInside) {
  Floats logits(130, 1);
  logits[7] = std::numeric_limits<float>::quiet_NaN();
  Choose(logits, 1, 3);
  EXPECT_TRUE(std::isnan(log_sum[0]));
  Choose(Floats(130, std::numeric_limits<float>::quiet_NaN()), 1, 100);
  EXPECT_FALSE(std::isfinite(log_sum[0]));
  for (int32_t index : indices) EXPECT_TRUE(index >= 0 && index < 130);
}

INSTANTIATE_TEST_SUITE_P(Levels, ChoiceTest,
                         testing::Values(Level::kPortable, Level::kAvx2, Level::kAvx512,
                                         Level::kAvx512Bf16),
                         [](const auto& level) { return std::string(Name(level.param)); });

TEST(ChoiceCheckTest, SizesThatDoNotFitAreRefused) {
  SerialRunner serial;
  EXPECT_THROW(Compute(Choice{.rows = 1, .columns = 3, .best = 4}, &serial), std::invalid_argument);
  EXPECT_THROW(Compute(Choice{.rows = 1, .columns = 3, .best = 0}, &serial), std::invalid_argument);
}

}  // namespace
}  // namespace sax::kernels
