// How much of the used pages holds nothing, under a load as language models see it: lengths with a
// long tail, a few hundred tokens on average, some prompts that begin alike, some samples.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

class Load {
 public:
  explicit Load(bool prefix_cache)
      : scheduler_({.num_pages = 4096,
                    .page_size = 16,
                    .max_rows = 32,
                    .buckets = {32, 512},
                    .max_model_len = 2048,
                    .queue_capacity = 64,
                    .row_params = 0,
                    .prefix_cache = prefix_cache}) {}

  // The share of empty slots over `steps` steps with full rows, each slot of each step counted.
  double Waste(int steps) {
    double empty = 0, all = 0;
    for (int step = 0; step < steps; ++step) {
      while (scheduler_.waiting() < 8) Submit();
      const auto plan = scheduler_.Plan(0);
      GoOn(plan->entry_request);
      if (step < steps / 4) continue;  // the rows fill up
      const double slots = scheduler_.used_pages() * 16.0;
      empty += slots - static_cast<double>(scheduler_.used_tokens());
      all += slots;
    }
    scheduler_.CheckIntegrity();
    return empty / all;
  }

  double mean_length() const { return lengths_ / next_; }

 private:
  // Log-normal, as conversations are.
  int Length(double median, int most) {
    const double length = std::lognormal_distribution<double>(std::log(median), 0.9)(random_);
    return std::clamp(static_cast<int>(length), 1, most);
  }

  void Submit() {
    Request request{.id = next_++, .prompt = std::vector<int32_t>(Length(250, 1400))};
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random_() % 1000);
    if (random_() % 4 == 0) {
      const size_t same = std::min<size_t>(request.prompt.size(), 100);
      std::fill_n(request.prompt.begin(), same, 7);
    }
    request.max_new_tokens = Length(150, 600);
    request.width = random_() % 8 == 0 ? 4 : 1;
    lengths_ += static_cast<double>(request.prompt.size()) + request.max_new_tokens;
    scheduler_.Submit(std::move(request));
  }

  void GoOn(const std::vector<int64_t>& entries) {
    for (size_t i = 0; i < entries.size();) {
      size_t last = i;
      while (last < entries.size() && entries[last] == entries[i]) ++last;
      std::vector<int32_t> parents(last - i), tokens(last - i, static_cast<int32_t>(random_()));
      for (size_t j = 0; j < parents.size(); ++j) parents[j] = static_cast<int32_t>(j);
      try {
        scheduler_.Advance(entries[i], parents, tokens);
      } catch (const std::invalid_argument&) {
        scheduler_.Finish(entries[i]);  // it has all its tokens
      }
      i = last;
    }
  }

  Scheduler scheduler_;
  std::mt19937 random_{5};
  int64_t next_ = 0;
  double lengths_ = 0;
};

TEST(SchedulerWasteTest, LessThanFourPercentOfUsedPagesIsEmpty) {
  for (const bool prefix_cache : {false, true}) {
    Load load(prefix_cache);
    const double waste = load.Waste(4000);
    std::printf("mean length %.0f tokens, prefix cache %s: %.2f%% of used pages is empty\n",
                load.mean_length(), prefix_cache ? "on" : "off", 100 * waste);
    EXPECT_LT(waste, 0.04);
    EXPECT_GT(waste, 0.005) << "half a page a sequence is expected";
  }
}

}  // namespace
}  // namespace sax
