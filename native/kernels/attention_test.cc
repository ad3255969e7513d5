#include "native/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "native/kernels/level.h"

namespace sax::kernels {
namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

float Rounded(float value, Element element) {
  if (element == Element::kF32) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Row {
  int before;  // tokens that the pages hold already
  int tokens;
  int parent = -1;  // a former row with whose pages it begins
  int shared = 0;   // how many of them
};

// A batch of rows, and what attention must make of it, in double precision.
class Batch {
 public:
  PageShape shape;
  int heads;
  int rotary;
  RotaryStyle style;

  Batch(PageShape shape, int heads, int rotary, RotaryStyle style, const std::vector<Row>& rows,
        int seed)
      : shape(shape), heads(heads), rotary(rotary), style(style), rows_(rows), random_(seed) {
    int longest = 0;
    for (const Row& row : rows) longest = std::max(longest, row.before + row.tokens);
    per_row_ = (longest + shape.page_size - 1) / shape.page_size + 1;
    num_pages_ = per_row_ * static_cast<int>(rows.size()) + 3;
    Ints free(num_pages_);
    for (int i = 0; i < num_pages_; ++i) free[i] = i;
    std::shuffle(free.begin(), free.end(), random_);
    // What nobody wrote must not be seen.
    pages_.assign(num_pages_ * PageUnits(shape), 0x7fc07fc0);
    table_.assign(per_row_ * rows.size(), -1);
    starts_ = {0};
    for (size_t r = 0; r < rows.size(); ++r) {
      const Row& row = rows[r];
      const int length = row.before + row.tokens;
      for (int i = 0; i < (length + shape.page_size - 1) / shape.page_size; ++i) {
        const bool old = i < row.shared;
        table_[r * per_row_ + i] = old ? table_[row.parent * per_row_ + i] : free.back();
        if (!old) free.pop_back();
      }
      lengths_.push_back(length);
      starts_.push_back(starts_.back() + row.tokens);
    }
    keys_.resize(rows.size());
    values_.resize(rows.size());
    FillBefore();
    const int dim = shape.head_dim;
    stride_ = static_cast<size_t>(heads + 2 * shape.kv_heads) * dim;
    qkv_ = Normal(stride_ * starts_.back());
    angles_ = Tables(Positions());
  }

  Floats Run(TaskRunner* runner) {
    Floats out(static_cast<size_t>(starts_.back()) * heads * shape.head_dim, -5);
    Attention a = Arguments();
    a.out = out.data();
    Compute(a, runner);
    return out;
  }

  Attention Arguments() {
    const size_t dim = shape.head_dim;
    return {.shape = shape,
            .heads = heads,
            .num_rows = static_cast<int>(rows_.size()),
            .pages_per_row = per_row_,
            .num_pages = num_pages_,
            .query_scale = 1 / std::sqrt(static_cast<float>(dim)),
            .query = qkv_.data(),
            .key = qkv_.data() + heads * dim,
            .value = qkv_.data() + (heads + shape.kv_heads) * dim,
            .stride = stride_,
            .rotary_dim = rotary,
            .rotary_style = style,
            .cos = angles_.first.data(),
            .sin = angles_.second.data(),
            .q_start = starts_.data(),
            .kv_len = lengths_.data(),
            .page_table = table_.data(),
            .pages = pages_.data()};
  }

  std::vector<double> Expected() const {
    const int dim = shape.head_dim, group = heads / shape.kv_heads;
    std::vector<double> out(static_cast<size_t>(starts_.back()) * heads * dim);
    for (size_t r = 0; r < rows_.size(); ++r) {
      auto keys = keys_[r];
      auto values = values_[r];
      for (int t = starts_[r]; t < starts_[r + 1]; ++t) {
        const float* base = qkv_.data() + t * stride_;
        Floats k, v;
        for (int h = 0; h < shape.kv_heads; ++h) {
          const Floats turned = Turned(base + (heads + h) * dim, t, 1);
          k.insert(k.end(), turned.begin(), turned.end());
          const float* from = base + (heads + shape.kv_heads + h) * dim;
          v.insert(v.end(), from, from + dim);
        }
        keys.push_back(k);
        values.push_back(v);
        for (int h = 0; h < heads; ++h) {
          const Floats q =
              Turned(base + h * dim, t, 1 / std::sqrt(static_cast<float>(dim)) * 1.44269504f);
          std::vector<double> weight;
          double top = -1e300, mass = 0;
          for (const Floats& key : keys) {
            double score = 0;
            for (int d = 0; d < dim; ++d) {
              score += double{Rounded(q[d], shape.element)} *
                       Rounded(key[h / group * dim + d], shape.element);
            }
            weight.push_back(score);
            top = std::max(top, score);
          }
          for (double& w : weight) mass += w = std::exp2(w - top);
          for (size_t i = 0; i < keys.size(); ++i) {
            for (int d = 0; d < dim; ++d) {
              out[(static_cast<size_t>(t) * heads + h) * dim + d] +=
                  weight[i] / mass * Rounded(values[i][h / group * dim + d], shape.element);
            }
          }
        }
      }
    }
    return out;
  }

 private:
  Floats Normal(size_t count) {
    std::normal_distribution<float> normal;
    Floats made(count);
    for (float& value : made) value = normal(random_);
    return made;
  }

  Ints Positions() const {
    Ints positions;
    for (const Row& row : rows_) {
      for (int i = 0; i < row.tokens; ++i) positions.push_back(row.before + i);
    }
    return positions;
  }

  // cos and sin as the kernel takes them.
  std::pair<Floats, Floats> Tables(const Ints& positions) const {
    Floats cos, sin;
    for (int position : positions) {
      for (int d = 0; d < rotary; ++d) {
        const int half = rotary / 2;
        const int i = style == RotaryStyle::kPairs ? d / 2 : d % half;
        const bool first = style == RotaryStyle::kPairs ? d % 2 == 0 : d < half;
        const double angle = position * std::pow(1e4, -2.0 * i / rotary);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(first ? -std::sin(angle) : std::sin(angle)));
      }
    }
    return {cos, sin};
  }

  Floats Turned(const float* from, int token, float scale) const {
    Floats turned(from, from + shape.head_dim);
    for (int d = 0; d < rotary; ++d) {
      const int half = rotary / 2;
      const int partner = style == RotaryStyle::kPairs ? d ^ 1 : d < half ? d + half : d - half;
      const size_t at = static_cast<size_t>(token) * rotary + d;
      turned[d] = from[d] * angles_.first[at] + from[partner] * angles_.second[at];
    }
    for (float& value : turned) value *= scale;
    return turned;
  }

  // Writes what the rows hold already, through the kernel itself, with angles of zero.
  void FillBefore() {
    const int dim = shape.head_dim;
    for (size_t r = 0; r < rows_.size(); ++r) {
      const Row& row = rows_[r];
      const int old = row.shared * shape.page_size;
      for (int i = 0; i < old; ++i) {
        keys_[r].push_back(keys_[row.parent][i]);
        values_[r].push_back(values_[row.parent][i]);
      }
      const int count = row.before - old;
      if (count <= 0) continue;
      const size_t width = static_cast<size_t>(shape.kv_heads) * dim;
      const Floats kv = Normal(count * 2 * width), query(count * 2 * width * heads);
      for (int i = 0; i < count; ++i) {
        const float* from = kv.data() + i * 2 * width;
        keys_[r].emplace_back(from, from + width);
        values_[r].emplace_back(from + width, from + 2 * width);
      }
      const Ints start = {0, count}, length = {row.before};
      Floats out(static_cast<size_t>(count) * heads * dim);
      Attention a = {.shape = shape,
                     .heads = heads,
                     .num_rows = 1,
                     .pages_per_row = per_row_,
                     .num_pages = num_pages_,
                     .query = query.data(),
                     .key = kv.data(),
                     .value = kv.data() + width,
                     .stride = 2 * width,
                     .q_start = start.data(),
                     .kv_len = length.data(),
                     .page_table = table_.data() + r * per_row_,
                     .pages = pages_.data(),
                     .out = out.data()};
      SerialRunner serial;
      Compute(a, &serial);
    }
  }

  std::vector<Row> rows_;
  std::mt19937 random_;
  int per_row_, num_pages_;
  size_t stride_;
  std::vector<uint32_t> pages_;
  Ints table_, starts_, lengths_;
  std::vector<std::vector<Floats>> keys_, values_;  // of each row, what came before
  Floats qkv_;
  std::pair<Floats, Floats> angles_;
};

class AttentionTest : public testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    if (GetParam() > BestLevel()) GTEST_SKIP() << "this CPU has no " << Name(GetParam());
    SetLevel(GetParam());
  }
  void TearDown() override { SetLevel(BestLevel()); }

  void ExpectRight(Batch batch) {
    const Floats out = batch.Run(&serial_);
    const std::vector<double> expected = batch.Expected();
    // bfloat16 rounds the weights, which add up to one, to 2 ** -9 of each; values are about 1.
    const double tolerance = batch.shape.element == Element::kF32 ? 1e-5 : 1e-2;
    ASSERT_EQ(out.size(), expected.size());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], expected[i], tolerance)
          << "token " << i / (batch.heads * batch.shape.head_dim);
    }
  }

  SerialRunner serial_;
};

TEST_P(AttentionTest, RowsOfAllKinds) {
  const std::vector<Row> rows = {
      {0, 1}, {15, 1}, {16, 1}, {200, 1}, {0, 40}, {33, 20}, {0, 2}, {130, 3}, {31, 1},
  };
  for (Element element : {Element::kF32, Element::kBf16}) {
    for (auto [kv_heads, heads, dim, rotary, style] :
         {std::tuple{4, 4, 64, 32, RotaryStyle::kPairs},
          {2, 6, 64, 64, RotaryStyle::kHalves},
          {1, 16, 32, 0, RotaryStyle::kPairs},
          {2, 2, 96, 96, RotaryStyle::kHalves},
          {1, 1, 256, 64, RotaryStyle::kPairs},
          {1, 3, 128, 128, RotaryStyle::kHalves},
          {2, 4, 8, 4, RotaryStyle::kPairs},
          {1, 2, 24, 24, RotaryStyle::kHalves}}) {
      for (int page_size : {16, 32}) {
        SCOPED_TRACE(testing::Message() << "dim " << dim << ", page " << page_size << ", element "
                                        << static_cast<int>(element));
        const PageShape shape = {kv_heads, dim, page_size, element};
        ExpectRight(Batch(shape, heads, rotary, style, rows, dim));
      }
    }
  }
}

TEST_P(AttentionTest, RowsThatShareTheirBeginning) {
  std::vector<Row> rows = {{100, 1}};
  for (int beam = 1; beam < 5; ++beam) rows.push_back({98 + beam, 1, 0, 6});
  rows.push_back({60, 1, 0, 2});  // shares less
  rows.push_back({170, 1});       // shares nothing
  rows.push_back({165, 1, 6, 10});
  rows.push_back({161, 1, 6, 10});
  rows.push_back({40, 12, 6, 2});  // a prompt's piece on shared pages
  for (Element element : {Element::kF32, Element::kBf16}) {
    ExpectRight(Batch({2, 64, 16, element}, 2, 32, RotaryStyle::kPairs, rows, 5));
    ExpectRight(Batch({2, 32, 16, element}, 8, 32, RotaryStyle::kHalves, rows, 6));
  }
}

TEST_P(AttentionTest, ThreadsChangeNothing) {
  const std::vector<Row> rows = {{40, 1}, {300, 1}, {0, 150}, {20, 70}};
  const PageShape shape = {4, 64, 16, Element::kBf16};
  Batch batch(shape, 8, 64, RotaryStyle::kHalves, rows, 3);
  std::vector<std::thread> threads;
  PoolRunner pool(4, [&](std::function<void()> work) { threads.emplace_back(std::move(work)); });
  const Floats many = batch.Run(&pool);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(batch.Run(&serial_), many);
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest,
                         testing::Values(Level::kPortable, Level::kAvx2, Level::kAvx512,
                                         Level::kAvx512Bf16),
                         [](const auto& level) { return std::string(Name(level.param)); });

TEST(AttentionCheckTest, WhatDoesNotFitIsRefused) {
  SerialRunner serial;
  const PageShape shape = {2, 32, 16, Element::kF32};
  Batch batch(shape, 4, 32, RotaryStyle::kPairs, {{20, 1}, {0, 5}}, 1);
  Floats out(6 * 4 * 32);
  const auto refused = [&](auto&& spoil) {
    Attention a = batch.Arguments();
    a.out = out.data();
    spoil(a);
    EXPECT_THROW(Compute(a, &serial), std::invalid_argument);
  };
  refused([](Attention& a) { a.shape.page_size = 8; });
  refused([](Attention& a) { a.shape.element = Element::kInt8; });
  refused([](Attention& a) { a.shape.head_dim = 1024; });
  refused([](Attention& a) { a.heads = 5; });
  refused([](Attention& a) { a.rotary_dim = 34; });
  refused([](Attention& a) { a.pages_per_row = 1; });
  refused([](Attention& a) { a.num_pages = 1; });
}

}  // namespace
}  // namespace sax::kernels
