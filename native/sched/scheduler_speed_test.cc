// Prints what a step of decoding costs; it asserts only that the steps were right.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

using Clock = std::chrono::steady_clock;
using Ids = std::vector<int32_t>;

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + values.size() / 2);
  return values[values.size() / 2];
}

// `groups` requests of `width` beams; each step the beams permute and one of them forks.
void Measure(int groups, int width, int prompt, int steps, bool prefix_cache) {
  const int rows = groups * width;
  Scheduler scheduler({.num_pages = 1 << 16,
                       .page_size = 16,
                       .max_rows = rows,
                       .buckets = {rows, 4096},
                       .max_model_len = 2048,
                       .queue_capacity = groups,
                       .row_params = 8,
                       .prefix_cache = prefix_cache});
  for (int id = 0; id < groups; ++id) {
    scheduler.Submit({.id = id,
                      .prompt = Ids(prompt, id),
                      .width = width,
                      .max_new_tokens = steps + 1,
                      .row_params = Ids(8, 0)});
  }
  while (scheduler.Plan(0) != nullptr) {
  }
  Ids parents(width), tokens(width, 7);
  for (int id = 0; id < groups; ++id) scheduler.Advance(id, Ids(width, 0), tokens);
  std::iota(parents.begin(), parents.end(), 0);
  std::ranges::rotate(parents, parents.begin() + width / 2);
  if (width > 1) parents[0] = parents[1];
  std::vector<double> plan_us, advance_us;
  for (int step = 0; step < steps; ++step) {
    const auto start = Clock::now();
    const auto plan = scheduler.Plan(0);
    const auto planned = Clock::now();
    ASSERT_EQ(plan->header(HeaderWord::kNumDecodeRows), rows);
    for (int id = 0; id < groups; ++id) scheduler.Advance(id, parents, tokens);
    const auto end = Clock::now();
    plan_us.push_back(std::chrono::duration<double, std::micro>(planned - start).count());
    advance_us.push_back(std::chrono::duration<double, std::micro>(end - planned).count());
  }
  std::printf(
      "%3d requests x %d beams, %4d prompt tokens, prefix cache %s: plan %6.1f us, "
      "advance %6.1f us\n",
      groups, width, prompt, prefix_cache ? "on " : "off", Median(plan_us), Median(advance_us));
}

TEST(SchedulerSpeedTest, DecodeSteps) {
  for (bool prefix_cache : {false, true}) {
    Measure(32, 1, 512, 300, prefix_cache);
    Measure(8, 4, 512, 300, prefix_cache);
    Measure(256, 1, 512, 300, prefix_cache);
    Measure(64, 4, 512, 300, prefix_cache);
  }
}

}  // namespace
}  // namespace sax
