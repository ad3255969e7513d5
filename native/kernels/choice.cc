#include "native/kernels/choice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "native/base/str_cat.h"
#include "native/kernels/choice_impl.h"
#include "native/kernels/level.h"

namespace sax::kernels {
namespace {

struct Passes {
  decltype(&portable::ClassMaxima) maxima;
  decltype(&portable::ExpSum) sum;
};

Passes PassesOf(Level level) {
  switch (level) {
    case Level::kPortable:
      return {portable::ClassMaxima, portable::ExpSum};
    case Level::kAvx2:
      return {avx2::ClassMaxima, avx2::ExpSum};
    case Level::kAvx512:
      return {avx512::ClassMaxima, avx512::ExpSum};
    case Level::kAvx512Bf16:
      return {avx512_bf16::ClassMaxima, avx512_bf16::ExpSum};
  }
  throw std::invalid_argument("no such level");
}

void Row(const Choice& c, int row) {
  const auto [class_maxima, exp_sum] = PassesOf(CurrentLevel());
  const float* const logits = c.logits + static_cast<size_t>(row) * c.columns;
  float maxima[kClasses];
  class_maxima(logits, c.columns, maxima);
  const float most = *std::max_element(maxima, maxima + kClasses);
  // So many classes have a column above it, so at least so many columns are.
  float threshold = -std::numeric_limits<float>::infinity();
  if (c.best <= kClasses) {
    std::nth_element(maxima, maxima + c.best - 1, maxima + kClasses, std::greater<float>());
    threshold = maxima[c.best - 1];
  }
  auto* const above = static_cast<int32_t*>(Scratch(Place::kPiece, sizeof(int32_t) * c.columns));
  int found = 0;
  const float sum = exp_sum(logits, c.columns, most, threshold, above, &found);
  c.log_sum[row] = std::log(sum);
  if (found < c.best) {  // NaN, which are above nothing
    std::iota(above, above + c.columns, 0);
    found = c.columns;
  }
  // A strict order also with NaN, which come last.
  const auto better = [logits](int32_t a, int32_t b) {
    const float x = logits[a], y = logits[b];
    if (std::isnan(x) || std::isnan(y))
      return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x > y || (x == y && a < b);
  };
  std::partial_sort(above, above + c.best, above + found, better);
  for (int i = 0; i < c.best; ++i) {
    c.indices[static_cast<size_t>(row) * c.best + i] = above[i];
    c.values[static_cast<size_t>(row) * c.best + i] = logits[above[i]];
  }
}

}  // namespace

void Compute(const Choice& choice, TaskRunner* runner) {
  if (choice.rows < 0 || choice.columns < 1 || choice.best < 1 || choice.best > choice.columns) {
    throw std::invalid_argument(StrCat("the best ", choice.best, " of ", choice.columns,
                                       " columns, in ", choice.rows, " rows"));
  }
  Choice copy = choice;
  runner->Run(
      choice.rows, [](void* c, int row) { Row(*static_cast<const Choice*>(c), row); }, &copy);
}

}  // namespace sax::kernels
