// What the scheduler shares among requests whose prompts begin alike, and in what order it starts
// them.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

using Ids = std::vector<int32_t>;
using Requests = std::vector<int64_t>;

Ids Range(int first, int count) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

class SchedulerPrefixTest : public testing::Test {
 protected:
  static SchedulerConfig Config() {
    return {.num_pages = 32,
            .page_size = 4,
            .max_rows = 4,
            .buckets = {16},
            .max_model_len = 64,
            .queue_capacity = 16,
            .row_params = 0};
  }

  // Tokens and entries of the next plan.
  void ExpectPlan(int tokens, const Requests& entries) {
    plan = scheduler.Plan(0);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(plan->header(HeaderWord::kNumTokens), tokens);
    EXPECT_EQ(plan->entry_request, entries);
    scheduler.CheckIntegrity();
  }

  // First page of a row of the last plan.
  int32_t FirstPage(int row) {
    return (*plan)[Section::kPageTable][row * plan->layout().dims().pages_per_row];
  }

  void TearDown() override {
    scheduler.CheckIntegrity();
    EXPECT_EQ(scheduler.free_pages() + scheduler.cached_pages() + scheduler.used_pages(), 32);
  }

  Scheduler scheduler{Config()};
  std::unique_ptr<StepPlan> plan;
};

TEST_F(SchedulerPrefixTest, SecondRequestStartsBehindThePagesOfTheFirst) {
  scheduler.Submit({.id = 1, .prompt = Range(0, 10), .max_new_tokens = 2});
  ExpectPlan(10, {1});
  scheduler.Finish(1);
  EXPECT_EQ(scheduler.used_pages(), 0);
  EXPECT_EQ(scheduler.cached_pages(), 2);
  EXPECT_EQ(scheduler.free_pages(), 30);
  scheduler.Submit({.id = 2, .prompt = Range(0, 11), .max_new_tokens = 2});
  ExpectPlan(3, {2});
  EXPECT_EQ((*plan)[Section::kPositions][0], 8);
  EXPECT_EQ((*plan)[Section::kKvLen][0], 11);
  EXPECT_EQ(scheduler.prefix_queried_tokens(), 21);
  EXPECT_EQ(scheduler.prefix_hit_tokens(), 8);
}

TEST_F(SchedulerPrefixTest, LastTokenOfAPromptIsAlwaysComputed) {
  for (int64_t id : {1, 2}) {
    scheduler.Submit({.id = id, .prompt = Range(0, 8), .max_new_tokens = 2});
    ExpectPlan(id == 1 ? 8 : 4, {id});
    scheduler.Finish(id);
  }
  EXPECT_EQ(scheduler.cached_pages(), 2) << "the page computed twice is there once";
}

TEST_F(SchedulerPrefixTest, AllTargetsOfAScoreAreComputed) {
  for (int64_t id : {1, 2}) {
    scheduler.Submit({.id = id, .prompt = Range(0, 12), .targets = {1, 2, 3}});
    ExpectPlan(id == 1 ? 12 : 4, Requests(3, id));  // the first target lies on the third page
    scheduler.Finish(id);
  }
  scheduler.Submit({.id = 3, .prompt = Range(0, 12), .targets = {1, 2, 3, 4, 5}});
  ExpectPlan(7, Requests(4, 3));  // one entry less than wanted; on the second page
  ExpectPlan(1, Requests(1, 3));
}

TEST_F(SchedulerPrefixTest, GeneratedPagesAreFoundByTheNextTurn) {
  scheduler.Submit({.id = 1, .prompt = Range(0, 6), .max_new_tokens = 8});
  ExpectPlan(6, {1});
  for (int32_t token = 6; token < 12; ++token) {
    scheduler.Advance(1, Ids{0}, Ids{token});
    ExpectPlan(1, {1});
  }
  scheduler.Finish(1);
  EXPECT_EQ(scheduler.cached_pages(), 3);
  scheduler.Submit({.id = 2, .prompt = Range(0, 16), .max_new_tokens = 2});
  ExpectPlan(4, {2});
}

TEST_F(SchedulerPrefixTest, BeamsEnterWhatTheyDisagreeOn) {
  scheduler.Submit({.id = 1, .prompt = Range(0, 3), .width = 2, .max_new_tokens = 8});
  ExpectPlan(3, {1});
  scheduler.Advance(1, Ids{0, 0}, Ids{3, 50});
  ExpectPlan(2, {1, 1});
  scheduler.Advance(1, Ids{0, 1}, Ids{9, 9});
  ExpectPlan(2, {1, 1});
  scheduler.Finish(1);
  scheduler.Submit({.id = 2, .prompt = {0, 1, 2, 50, 7}, .max_new_tokens = 1});
  scheduler.Submit({.id = 3, .prompt = {0, 1, 2, 3, 7}, .max_new_tokens = 1});
  ExpectPlan(2, {2, 3});
}

TEST_F(SchedulerPrefixTest, SuffixesOfOnePrefixComputeItOnce) {
  for (int64_t id : {1, 2, 3, 4}) {
    Ids prompt = Range(0, 20);  // five full pages, in two steps
    prompt.push_back(100 + static_cast<int32_t>(id));
    scheduler.Submit({.id = id, .prompt = prompt, .targets = {7}});
  }
  ExpectPlan(16, {});
  EXPECT_EQ(scheduler.running(), 1);
  ExpectPlan(5, {1});
  EXPECT_EQ(scheduler.waiting(), 3) << "the last page of the prefix is not there yet";
  ExpectPlan(3, {2, 3, 4});
  EXPECT_EQ(FirstPage(0), FirstPage(2));
  EXPECT_EQ(scheduler.used_pages(), 5 + 4);
  EXPECT_EQ(scheduler.prefix_hit_tokens(), 60);
}

TEST_F(SchedulerPrefixTest, PromptsThatBeginAlikeReserveTheirBeginningOnce) {
  // 100 full pages of beginning, two pages more each: 102 for the first, 2 for each other.
  SchedulerConfig config = Config();
  config.num_pages = 220;
  config.max_rows = 8;
  config.max_model_len = 420;
  config.buckets = {512};
  Scheduler shared(config);
  for (int32_t id = 0; id < 8; ++id) {
    Ids prompt = Range(0, 400);
    prompt.push_back(1000 + id);
    shared.Submit({.id = id, .prompt = prompt, .max_new_tokens = 6});
  }
  shared.Plan(0);
  EXPECT_EQ(shared.running(), 1);
  shared.Plan(0);
  EXPECT_EQ(shared.running(), 8);
  EXPECT_EQ(shared.used_pages(), 100 + 8);
  EXPECT_EQ(shared.used_tokens(), 400 + 8);
  shared.CheckIntegrity();
  for (int32_t id = 0; id < 7; ++id) shared.Finish(id);  // the first, that computed it, too
  shared.CheckIntegrity();
  shared.Submit({.id = 8, .prompt = Range(5000, 400), .max_new_tokens = 4});
  shared.Plan(0);
  EXPECT_EQ(shared.running(), 2);
  shared.Finish(7);
  EXPECT_EQ(shared.used_pages(), 100);
  shared.CheckIntegrity();
}

TEST_F(SchedulerPrefixTest, HeadThatWaitsGoesOnWhenThePrefixIsGivenUp) {
  for (int64_t id : {1, 2}) {
    scheduler.Submit({.id = id, .prompt = Range(0, 40), .max_new_tokens = 1});
  }
  ExpectPlan(16, {});
  scheduler.Cancel(1);
  ExpectPlan(16, {});  // its first four pages are kept; the second request goes on behind them
  EXPECT_EQ(scheduler.TakeDropped().size(), 1u);
  EXPECT_EQ((*plan)[Section::kPositions][0], 16);
  ExpectPlan(8, {2});
}

TEST_F(SchedulerPrefixTest, DifferentSaltsShareNothing) {
  for (uint64_t salt : {1, 2}) {
    const int64_t id = static_cast<int64_t>(salt);
    scheduler.Submit({.id = id, .prompt = Range(0, 8), .max_new_tokens = 1, .cache_salt = salt});
  }
  ExpectPlan(16, {1, 2});
  scheduler.Finish(1);
  scheduler.Finish(2);
  EXPECT_EQ(scheduler.cached_pages(), 4);
  scheduler.Submit({.id = 3, .prompt = Range(0, 8), .max_new_tokens = 1, .cache_salt = 3});
  ExpectPlan(8, {3});
}

TEST_F(SchedulerPrefixTest, RequestThatMayNotReadComputesAllAndNeitherWaits) {
  scheduler.Submit({.id = 1, .prompt = Range(0, 8), .targets = {1}});
  scheduler.Submit({.id = 2, .prompt = Range(0, 8), .targets = {1}, .cache_read = false});
  ExpectPlan(16, {1, 2});
  EXPECT_EQ(scheduler.prefix_queried_tokens(), 8);
  EXPECT_EQ(scheduler.prefix_hit_tokens(), 0);
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  EXPECT_EQ(scheduler.used_pages(), 2) << "the second gave its pages up for the first's";
}

TEST_F(SchedulerPrefixTest, CachedPagesMakeWayForRequests) {
  for (int64_t id = 0; id < 4; ++id) {
    scheduler.Submit({.id = id, .prompt = Range(1000 * static_cast<int32_t>(id), 32)});
    ExpectPlan(16, {});
    ExpectPlan(16, {id});
    scheduler.Finish(id);
  }
  EXPECT_EQ(scheduler.cached_pages(), 32);
  EXPECT_EQ(scheduler.free_pages(), 0);
  scheduler.Submit({.id = 9, .prompt = Range(500, 16), .max_new_tokens = 48});
  ExpectPlan(16, {9});
  EXPECT_EQ(scheduler.cached_pages(), 28);
  scheduler.Submit({.id = 5, .prompt = Range(0, 32), .max_new_tokens = 1});
  ExpectPlan(16, {5});  // four of the oldest prompt's eight pages are left
  EXPECT_EQ((*plan)[Section::kPositions][0], 16);
}

TEST_F(SchedulerPrefixTest, WithoutTheCacheNothingIsKept) {
  SchedulerConfig config = Config();
  config.prefix_cache = false;
  Scheduler plain(config);
  for (int64_t id : {1, 2}) plain.Submit({.id = id, .prompt = Range(0, 8), .max_new_tokens = 1});
  EXPECT_EQ(plain.Plan(0)->header(HeaderWord::kNumTokens), 16);
  plain.Finish(1);
  plain.Finish(2);
  EXPECT_EQ(plain.free_pages(), 32);
  EXPECT_EQ(plain.prefix_queried_tokens(), 0);
}

TEST_F(SchedulerPrefixTest, HigherPrioritiesStartFirst) {
  for (int64_t id : {1, 2, 3, 4, 5}) {
    const int priority = id == 3 ? 7 : id == 5 ? -1 : 0;
    const int32_t token = static_cast<int32_t>(id);
    scheduler.Submit({.id = id, .prompt = {token}, .max_new_tokens = 1, .priority = priority});
  }
  ExpectPlan(4, {3, 1, 2, 4});
}

TEST_F(SchedulerPrefixTest, TokensThatWaitAreBounded) {
  SchedulerConfig config = Config();
  config.max_queued_tokens = 20;
  Scheduler bounded(config);
  bounded.Submit({.id = 1, .prompt = Range(0, 30)});  // alone, it is not too long
  EXPECT_EQ(bounded.queued_tokens(), 30);
  EXPECT_THROW(bounded.Submit({.id = 2, .prompt = {1}}), QueueFull);
  bounded.Plan(0);
  EXPECT_EQ(bounded.queued_tokens(), 0);
  bounded.Submit({.id = 2, .prompt = Range(0, 19)});
  bounded.Submit({.id = 3, .prompt = {1}});
  EXPECT_THROW(bounded.Submit({.id = 4, .prompt = {1}}), QueueFull);
  bounded.Finish(2);
  EXPECT_EQ(bounded.queued_tokens(), 1);
}

}  // namespace
}  // namespace sax
