// Random shapes, fitting and not, at every level of this CPU: a kernel refuses what does not fit
// together; else it writes all of its results and nothing else, and they are those of the portable
// level. Buffers have exactly the size that they need, and odd addresses, so that AddressSanitizer
// sees a step too far. SAX_FUZZ_SHAPES says how many shapes of each kind there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <vector>

#include "native/kernels/attention.h"
#include "native/kernels/choice.h"
#include "native/kernels/level.h"
#include "native/kernels/linear.h"
#include "native/kernels/pack.h"

namespace sax::kernels {
namespace {

// What a result is before it is written; no result of ours.
constexpr float kUnwritten = -12345.678f;

int Shapes() {
  const char* const wanted = std::getenv("SAX_FUZZ_SHAPES");
  return wanted != nullptr ? std::atoi(wanted) : 300;
}

// An array of exactly `size` numbers, which is aligned as its type is and no better.
template <class T>
class Exactly {
 public:
  explicit Exactly(size_t size, T value = T()) : size_(size), memory_(new T[size + 1]) {
    std::fill(data(), data() + size, value);
  }
  T* data() { return memory_.get() + 1; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data()[i]; }

 private:
  size_t size_;
  std::unique_ptr<T[]> memory_;
};

class Source {
 public:
  explicit Source(uint32_t seed) : random_(seed) {}

  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool OneIn(int n) { return Int(1, n) == 1; }
  template <class T>
  T Of(std::initializer_list<T> values) {
    return values.begin()[Int(0, static_cast<int>(values.size()) - 1)];
  }

  Exactly<float> Floats(size_t size, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    Exactly<float> values(size);
    for (size_t i = 0; i < size; ++i) values[i] = normal(random_);
    return values;
  }

  Exactly<uint16_t> Halves(size_t size) {
    Exactly<uint16_t> values(size);
    Exactly<float> floats = Floats(size);
    for (size_t i = 0; i < size; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &floats[i], 4);
      values[i] = static_cast<uint16_t>(bits >> 16);
    }
    return values;
  }

 private:
  std::mt19937 random_;
};

// Nothing if the kernel refused.
using Found = std::optional<std::vector<float>>;

// The same at all levels; false if the first of them refused.
template <class Run>
bool AgreeAtAllLevels(const Run& run, float tolerance) {
  Found first;
  for (int level = 0; level <= static_cast<int>(BestLevel()); ++level) {
    SetLevel(static_cast<Level>(level));
    const Found found = run();
    if (level == 0) {
      first = found;
      continue;
    }
    EXPECT_EQ(found.has_value(), first.has_value());
    if (!found || !first) continue;
    EXPECT_EQ(found->size(), first->size());
    for (size_t i = 0; i < found->size(); ++i) {
      if (std::isnan((*found)[i]) && std::isnan((*first)[i])) continue;
      EXPECT_NEAR((*found)[i], (*first)[i], tolerance) << "at " << i;
      if (testing::Test::HasFailure()) return true;
    }
  }
  return first.has_value();
}

bool LinearOnce(uint32_t seed) {
  Source source(seed);
  const auto element = source.Of({Element::kF32, Element::kBf16, Element::kInt8});
  Linear linear;
  linear.rows = source.OneIn(40) ? -1 : source.Int(0, source.Of({3, 14, 70}));
  const size_t rows = std::max(linear.rows, 0);
  linear.num_inputs = source.OneIn(40) ? source.Of({0, 3}) : source.Int(1, 2);
  std::vector<Exactly<float>> inputs;
  std::vector<Exactly<uint16_t>> half_inputs;
  int depth = 0;
  for (int i = 0; i < std::min(linear.num_inputs, kMaxInputs); ++i) {
    Input& input = linear.inputs[i];
    input.width = source.Int(1, source.Of({4, 40, 160}));
    depth += input.width;
    if (source.OneIn(2)) {
      inputs.push_back(source.Floats(rows * input.width));
      input.data = inputs.back().data();
    } else {
      half_inputs.push_back(source.Halves(rows * input.width));
      input.data = half_inputs.back().data();
      input.format = Format::kBf16;
    }
  }
  linear.num_outputs = source.OneIn(40) ? source.Of({0, 3}) : source.Int(1, 2);
  int columns = 0;
  for (int i = 0; i < std::min(linear.num_outputs, kMaxOutputs); ++i) {
    Output& output = linear.outputs[i];
    output.activation = source.Of(
        {Activation::kNone, Activation::kNone, Activation::kGelu, Activation::kSiluGated});
    const bool fits = !source.OneIn(10);
    output.columns = fits ? kPanel * source.Int(1, 4) : source.Int(1, 100);
    if (fits && output.activation != Activation::kSiluGated && i + 1 == linear.num_outputs) {
      output.columns = source.Int(1, 100);
    }
    columns += output.columns;
  }
  if (source.OneIn(30)) depth += 1;
  if (source.OneIn(30)) columns += 1;
  if (depth == 0 || columns == 0) depth = columns = 1;
  Exactly<float> norm_scale = source.Floats(depth), norm_bias = source.Floats(depth);
  if (source.OneIn(2)) {
    linear.norm = source.Of({Norm::kLayer, Norm::kRms});
    linear.norm_scale = norm_scale.data();
    linear.norm_bias = linear.norm == Norm::kLayer ? norm_bias.data() : nullptr;
    linear.norm_eps = 1e-5f;
  }
  Exactly<float> w =
      source.Floats(static_cast<size_t>(depth) * columns, 1 / std::sqrt(1.f * depth));
  Exactly<float> bias = source.Floats(columns);
  if (source.OneIn(2)) linear.bias = bias.data();
  const size_t padded = (static_cast<size_t>(columns) + kPanel - 1) / kPanel * kPanel;
  Exactly<uint32_t> units(PackedUnits(element, depth, columns));
  Exactly<float> scale(padded);
  const Block block = {w.data(), Number::kF32, depth, columns, static_cast<size_t>(columns), 1};
  linear.weights = {element, depth, columns, units.data(), scale.data()};
  if (element == Element::kInt8) ColumnScales(linear.weights, block, scale.data());
  Pack(linear.weights, block, units.data(), scale.data());
  const int first = linear.outputs[0].columns;
  Exactly<float> residual = source.Floats(rows * first);
  const bool plain = linear.outputs[0].activation != Activation::kSiluGated;
  if (plain && source.OneIn(2)) linear.outputs[0].residual = residual.data();

  const auto run = [&]() -> Found {
    SerialRunner runner;
    std::vector<Exactly<float>> results;
    for (int i = 0; i < std::min(linear.num_outputs, kMaxOutputs); ++i) {
      Output& output = linear.outputs[i];
      const int width =
          output.activation == Activation::kSiluGated ? output.columns / 2 : output.columns;
      results.emplace_back(rows * width, kUnwritten);
      output.data = results.back().data();
    }
    try {
      Compute(linear, &runner);
    } catch (const std::invalid_argument&) {
      return std::nullopt;
    }
    std::vector<float> found;
    for (Exactly<float>& result : results) {
      found.insert(found.end(), result.data(), result.data() + result.size());
    }
    EXPECT_EQ(std::count(found.begin(), found.end(), kUnwritten), 0);
    return found;
  };
  // Products of int8 are rounded where float32 sums differ in their last place.
  return AgreeAtAllLevels(run, element == Element::kF32 ? 1e-4f : 0.2f);
}

bool AttentionOnce(uint32_t seed) {
  Source source(seed);
  Attention a;
  PageShape& shape = a.shape;
  shape.element = source.OneIn(40) ? Element::kInt8 : source.Of({Element::kF32, Element::kBf16});
  shape.kv_heads = source.Int(1, 3);
  shape.head_dim = source.OneIn(30) ? 513 : 2 * source.Int(1, source.Of({8, 40, 128}));
  shape.page_size = source.OneIn(40) ? source.Int(1, 40) : 16 * source.Int(1, 3);
  a.heads = source.OneIn(40) ? source.Int(1, 7) : shape.kv_heads * source.Int(1, 4);
  a.rotary_dim = std::min(2 * source.Int(0, shape.head_dim / 2), shape.head_dim);
  a.rotary_style = source.Of({RotaryStyle::kPairs, RotaryStyle::kHalves});
  a.num_rows = source.Int(0, 6);
  a.num_pages = source.Int(1, 12);
  a.query_scale = 1 / std::sqrt(1.f * shape.head_dim);
  Exactly<int32_t> starts(a.num_rows + 1), lengths(a.num_rows);
  const int decoding = source.Int(0, a.num_rows);
  for (int r = 0; r < a.num_rows; ++r) {
    const int tokens = r < decoding ? 1 : source.Int(1, 70);
    starts[r + 1] = starts[r] + tokens;
    lengths[r] = tokens + source.Int(0, 60);
    if (source.OneIn(60)) lengths[r] = source.Of({0, -1, tokens - 1, 1 << 30, 0x7fffffff});
    a.pages_per_row = std::max(a.pages_per_row, std::min(lengths[r], 1000) / shape.page_size + 1);
  }
  if (a.num_rows > 0 && source.OneIn(60)) starts[0] = source.Of({-1, 1});
  Exactly<int32_t> table(static_cast<size_t>(a.num_rows) * a.pages_per_row, -1);
  for (int r = 0; r < a.num_rows; ++r) {
    for (int i = 0; i < a.pages_per_row; ++i) {
      // Rows must not write to what others read: they share what was there before, at most.
      const bool shared = r > 0 && i < source.Int(0, 2);
      table[r * a.pages_per_row + i] =
          shared ? table[(r - 1) * a.pages_per_row + i] : source.Int(0, a.num_pages - 1);
    }
  }
  if (source.OneIn(30) && table.size() > 0) {
    table[source.Int(0, static_cast<int>(table.size()) - 1)] =
        source.Of({-1, a.num_pages, 1 << 30});
  }
  const size_t tokens = starts[a.num_rows], dim = shape.head_dim;
  a.stride = (a.heads + 2 * shape.kv_heads) * dim;
  Exactly<float> qkv = source.Floats(tokens * a.stride);
  a.query = qkv.data();
  a.key = a.query + a.heads * dim;
  a.value = a.key + shape.kv_heads * dim;
  Exactly<float> cos = source.Floats(tokens * a.rotary_dim),
                 sin = source.Floats(tokens * a.rotary_dim);
  a.cos = cos.data();
  a.sin = sin.data();
  a.q_start = starts.data();
  a.kv_len = lengths.data();
  a.page_table = table.data();
  // A page that several rows write to has what came last, or both: such a batch must harm nothing
  // but has no result of its own.
  std::vector<int> owners(a.num_pages, -1);
  bool own = true;
  for (int r = 0; r < a.num_rows; ++r) {
    const int before = lengths[r] - (starts[r + 1] - starts[r]);
    for (int i = 0; i < a.pages_per_row && i * shape.page_size < std::min(lengths[r], 1000); ++i) {
      const int page = table[r * a.pages_per_row + i];
      if (page < 0 || page >= a.num_pages) continue;
      const bool written = (i + 1) * shape.page_size > before;
      own = own && (owners[page] == -1 || (!written && owners[page] == -2));
      owners[page] = written ? r : -2;
    }
  }
  const size_t units = shape.element == Element::kInt8 || dim % 2 ? 0 : PageUnits(shape);

  const auto run = [&]() -> Found {
    SerialRunner runner;
    Exactly<uint32_t> pages(a.num_pages * units, 0x3e993e99);
    Exactly<float> out(tokens * a.heads * dim, kUnwritten);
    a.pages = pages.data();
    a.out = out.data();
    try {
      Compute(a, &runner);
    } catch (const std::invalid_argument&) {
      return std::nullopt;
    }
    if (!own) return std::vector<float>();
    EXPECT_EQ(std::count(out.data(), out.data() + out.size(), kUnwritten), 0);
    return std::vector<float>(out.data(), out.data() + out.size());
  };
  return AgreeAtAllLevels(run, shape.element == Element::kF32 ? 1e-3f : 0.1f);
}

bool ChoiceOnce(uint32_t seed) {
  Source source(seed);
  Choice choice;
  choice.rows = source.OneIn(40) ? -1 : source.Int(0, 5);
  choice.columns = source.OneIn(40) ? 0 : source.Int(1, source.Of({5, 70, 3000}));
  choice.best = source.OneIn(20) ? choice.columns + 1 : source.Int(0, choice.columns);
  const size_t rows = std::max(choice.rows, 0);
  Exactly<float> logits = source.Floats(rows * choice.columns, 3);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = std::round(logits[i] * 4) / 4;  // many are equal
    if (source.OneIn(50)) logits[i] = -std::numeric_limits<float>::infinity();
  }
  choice.logits = logits.data();

  const auto run = [&]() -> Found {
    SerialRunner runner;
    Exactly<float> values(rows * choice.best, kUnwritten), sums(rows, kUnwritten);
    Exactly<int32_t> indices(rows * choice.best, -1);
    choice.values = values.data();
    choice.indices = indices.data();
    choice.log_sum = sums.data();
    try {
      Compute(choice, &runner);
    } catch (const std::invalid_argument&) {
      return std::nullopt;
    }
    std::vector<float> found;
    for (size_t row = 0; row < rows; ++row) {
      for (int k = 0; k < choice.best; ++k) {
        const int32_t index = indices[row * choice.best + k];
        EXPECT_GE(index, 0);
        EXPECT_LT(index, choice.columns);
        EXPECT_EQ(values[row * choice.best + k], logits[row * choice.columns + index]);
        found.push_back(static_cast<float>(index));
      }
      found.push_back(sums[row]);
    }
    EXPECT_EQ(std::count(found.begin(), found.end(), kUnwritten), 0);
    return found;
  };
  return AgreeAtAllLevels(run, 1e-4f);
}

void RunAll(bool (*once)(uint32_t), const char* what) {
  int taken = 0;
  const int shapes = Shapes();
  for (int i = 0; i < shapes; ++i) {
    SCOPED_TRACE(testing::Message() << what << ", seed " << i);
    taken += once(i);
    ASSERT_FALSE(testing::Test::HasFailure());
  }
  SetLevel(BestLevel());
  // Most fit, some do not.
  EXPECT_GT(taken, shapes / 3);
  EXPECT_LT(taken, shapes);
}

TEST(ShapesTest, Linear) { RunAll(LinearOnce, "linear"); }
TEST(ShapesTest, Attention) { RunAll(AttentionOnce, "attention"); }
TEST(ShapesTest, Choice) { RunAll(ChoiceOnce, "choice"); }

}  // namespace
}  // namespace sax::kernels
