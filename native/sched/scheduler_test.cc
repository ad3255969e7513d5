#include "native/sched/scheduler.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace sax {
namespace {

using Ids = std::vector<int32_t>;
using Requests = std::vector<int64_t>;

class SchedulerTest : public testing::Test {
 protected:
  static SchedulerConfig Config() {
    return {.num_pages = 32,
            .page_size = 4,
            .max_rows = 4,
            .buckets = {2, 4, 8, 16},
            .max_model_len = 64,
            .queue_capacity = 8,
            .row_params = 0,
            .prefix_cache = false};
  }

  void TearDown() override { scheduler.CheckIntegrity(); }

  void Submit(int64_t id, int prompt, int max_new_tokens = 4, int width = 1) {
    scheduler.Submit({.id = id,
                      .prompt = Ids(prompt, static_cast<int32_t>(id)),
                      .width = width,
                      .max_new_tokens = max_new_tokens});
  }

  void Score(int64_t id, int prompt, int targets) {
    scheduler.Submit({.id = id, .prompt = Ids(prompt, 1), .targets = Ids(targets, 2)});
  }

  // Tokens, rows, entries and bucket of the next plan.
  void ExpectPlan(int tokens, int rows, const Requests& entries, int bucket) {
    plan = scheduler.Plan(now);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(plan->header(HeaderWord::kNumTokens), tokens);
    EXPECT_EQ(plan->header(HeaderWord::kNumRows), rows);
    EXPECT_EQ(plan->entry_request, entries);
    EXPECT_EQ(plan->layout().bucket(), bucket);
    scheduler.CheckIntegrity();
  }

  Scheduler scheduler{Config()};
  std::unique_ptr<StepPlan> plan;
  double now = 0;
};

TEST_F(SchedulerTest, NothingToDo) {
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  EXPECT_EQ(scheduler.free_pages(), 32);
}

TEST_F(SchedulerTest, SeveralPromptsShareAStepInOrderOfArrival) {
  Submit(5, 3);
  Submit(3, 4);
  Submit(4, 20);
  ExpectPlan(16, 3, {5, 3}, 16);
  EXPECT_EQ((*plan)[Section::kQStart][1], 3);
  EXPECT_EQ((*plan)[Section::kQStart][2], 7);
  EXPECT_EQ((*plan)[Section::kKvLen][2], 9) << "the long prompt gets what is left";
  ExpectPlan(11, 1, {4}, 16);
  EXPECT_EQ(scheduler.Plan(0), nullptr) << "all await their tokens";
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndPromptsFillTheRest) {
  Submit(1, 3);
  ExpectPlan(3, 1, {1}, 4);
  Submit(2, 40);
  scheduler.Advance(1, Ids{0}, Ids{9});
  ExpectPlan(16, 2, {1}, 16);
  EXPECT_EQ(plan->header(HeaderWord::kNumDecodeRows), 1);
  EXPECT_EQ((*plan)[Section::kTokens][0], 9);
  EXPECT_EQ((*plan)[Section::kKvLen][1], 15);
}

TEST_F(SchedulerTest, PromptsBesideDecodeRowsKeepToTheMix) {
  SchedulerConfig config = Config();
  config.buckets = {4, 16, 64};
  Scheduler mixed(config);
  mixed.SetMix({16, 64, 64});
  mixed.Submit({.id = 1, .prompt = Ids(30, 1), .max_new_tokens = 2});
  EXPECT_EQ(mixed.Plan(0)->header(HeaderWord::kNumTokens), 30) << "nobody decodes";
  mixed.Submit({.id = 2, .prompt = Ids(40, 2), .max_new_tokens = 2});
  mixed.Advance(1, Ids{0}, Ids{9});
  EXPECT_EQ(mixed.Plan(0)->header(HeaderWord::kNumTokens), 16);
  mixed.Finish(1);
  EXPECT_EQ(mixed.Plan(0)->header(HeaderWord::kNumTokens), 25) << "the rest at once";
  mixed.Finish(2);
  mixed.CheckIntegrity();
}

TEST_F(SchedulerTest, BucketIsTheSmallestThatHoldsTokensRowsAndEntries) {
  Submit(1, 1);
  ExpectPlan(1, 1, {1}, 2);
  scheduler.Finish(1);
  Request fork{.id = 2, .prompt = {1}, .width = 3, .fork_at_start = true, .max_new_tokens = 1};
  scheduler.Submit(fork);
  ExpectPlan(1, 1, {2, 2, 2}, 4);
}

TEST_F(SchedulerTest, HeadOfTheQueueBlocksThoseBehindIt) {
  Submit(1, 4, 4, 2);
  Submit(2, 4, 4, 3);  // 5 rows with the first
  Submit(3, 4, 4, 1);  // would fit
  ExpectPlan(4, 1, {1}, 4);
  EXPECT_EQ(scheduler.running(), 1);
  EXPECT_EQ(scheduler.waiting(), 2);
  scheduler.Finish(1);
  ExpectPlan(8, 2, {2, 3}, 8);
}

TEST_F(SchedulerTest, RequestWaitsUntilItsWorstCaseOfPagesIsFree) {
  Submit(1, 4, 44, 2);  // 1 + 2 * 11 = 23 pages
  Submit(2, 4, 32, 1);  // 1 + 8 = 9 pages: 32 in all
  Submit(3, 1, 0, 1);
  ExpectPlan(8, 2, {1, 2}, 8);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_EQ(scheduler.used_pages(), 2);
  scheduler.Finish(2);
  ExpectPlan(1, 1, {3}, 2);
}

TEST_F(SchedulerTest, ScoringIsCutSoThatEntriesFit) {
  Score(1, 10, 9);  // entries at tokens 1..9; 4 a step
  ExpectPlan(5, 1, {1, 1, 1, 1}, 8);
  ExpectPlan(4, 1, {1, 1, 1, 1}, 4);
  ExpectPlan(1, 1, {1}, 2);
  EXPECT_EQ(scheduler.Plan(0), nullptr) << "it waits to be finished";
  EXPECT_THROW(scheduler.Advance(1, Ids{0}, Ids{1}), std::invalid_argument);
  scheduler.Finish(1);
  EXPECT_EQ(scheduler.free_pages(), 32);
}

TEST_F(SchedulerTest, PromptEndWaitsWhenItsEntriesDoNotFit) {
  Score(1, 4, 4);
  scheduler.Submit({.id = 2, .prompt = {1, 2}, .width = 2, .fork_at_start = true});
  ExpectPlan(4, 1, {1, 1, 1, 1}, 4);
  EXPECT_EQ(scheduler.running(), 2) << "it was started";
  ExpectPlan(2, 1, {2, 2}, 2);
}

TEST_F(SchedulerTest, WriterToASharedPageGetsACopyButTheLastNot) {
  Submit(1, 6, 8, 3);
  ExpectPlan(6, 1, {1}, 8);
  scheduler.Advance(1, Ids{0, 0, 0}, Ids{7, 8, 9});
  EXPECT_EQ(scheduler.used_pages(), 2);
  ExpectPlan(3, 3, {1, 1, 1}, 4);
  EXPECT_EQ(plan->header(HeaderWord::kNumCopies), 2);
  EXPECT_EQ(scheduler.used_pages(), 4);
  scheduler.Advance(1, Ids{0, 1, 2}, Ids{7, 8, 9});
  ExpectPlan(3, 3, {1, 1, 1}, 4);
  EXPECT_EQ(plan->header(HeaderWord::kNumCopies), 0);
  // At a page's border a fork needs no copy.
  scheduler.Advance(1, Ids{2, 2, 2}, Ids{7, 8, 9});
  EXPECT_EQ(scheduler.used_pages(), 2);
  ExpectPlan(3, 3, {1, 1, 1}, 4);
  EXPECT_EQ(plan->header(HeaderWord::kNumCopies), 0);
  EXPECT_EQ(scheduler.used_pages(), 5);
}

TEST_F(SchedulerTest, UsedTokensCountEverySlotOnce) {
  Submit(1, 6, 8, 3);
  ExpectPlan(6, 1, {1}, 8);
  EXPECT_EQ(scheduler.used_tokens(), 6);
  scheduler.Advance(1, Ids{0, 0, 0}, Ids{7, 8, 9});
  EXPECT_EQ(scheduler.used_tokens(), 6);
  ExpectPlan(3, 3, {1, 1, 1}, 4);  // the last, unfilled page is copied twice
  EXPECT_EQ(scheduler.used_tokens(), 4 + 3 * 3);
  scheduler.Advance(1, Ids{1, 1}, Ids{7, 8});
  EXPECT_EQ(scheduler.used_tokens(), 4 + 3);
  scheduler.Finish(1);
  EXPECT_EQ(scheduler.used_tokens(), 0);
}

TEST_F(SchedulerTest, CancelTakesEffectInEveryState) {
  Submit(1, 20);               // is in the middle of its prompt
  Submit(2, 4), Submit(3, 4);  // wait
  ExpectPlan(16, 1, {}, 16);
  for (int64_t id : {1, 3, 99}) scheduler.Cancel(id);
  ExpectPlan(4, 1, {2}, 4);
  EXPECT_EQ(scheduler.TakeDropped(),
            (std::vector<Dropped>{{3, DropReason::kCancelled}, {1, DropReason::kCancelled}}));
  EXPECT_TRUE(scheduler.TakeDropped().empty());
  scheduler.Cancel(2);  // awaits its token
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  EXPECT_EQ(scheduler.free_pages(), 32);
  EXPECT_EQ(scheduler.running(), 0);
  EXPECT_THROW(scheduler.Advance(2, Ids{0}, Ids{1}), std::invalid_argument);
}

TEST_F(SchedulerTest, LateRequestsAreDroppedInEveryState) {
  for (int64_t id : {1, 2, 3, 4, 5}) {
    scheduler.Submit({.id = id, .prompt = {1, 2}, .max_new_tokens = 2, .deadline = 10.0 + id});
  }
  ExpectPlan(8, 4, {1, 2, 3, 4}, 8);
  scheduler.Advance(2, Ids{0}, Ids{1});
  now = 12;
  ExpectPlan(2, 1, {5}, 2);
  EXPECT_EQ(scheduler.TakeDropped(),
            (std::vector<Dropped>{{1, DropReason::kExpired}, {2, DropReason::kExpired}}));
  now = 100;
  EXPECT_EQ(scheduler.Plan(now), nullptr);
  EXPECT_EQ(scheduler.TakeDropped().size(), 3u);
  EXPECT_EQ(scheduler.free_pages(), 32);
}

TEST_F(SchedulerTest, FinishedIdMayComeBack) {
  Submit(1, 4);
  ExpectPlan(4, 1, {1}, 4);
  EXPECT_THROW(Submit(1, 4), std::invalid_argument);
  scheduler.Finish(1);
  scheduler.Finish(1);
  Submit(1, 4);
  scheduler.Finish(1);  // while it waits
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(scheduler.Plan(0), nullptr);
}

TEST_F(SchedulerTest, AdvanceOfAnIdThatDoesNotRunSaysSo) {
  Submit(1, 4);
  try {
    scheduler.Advance(1, Ids{0}, Ids{1});
    FAIL() << "a waiting request was advanced";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()),
              "request 1 does not run: it is unknown, waiting, finished or dropped");
  }
}

TEST_F(SchedulerTest, LayoutsAreThoseOfTheBuckets) {
  EXPECT_EQ(scheduler.Layout(2).rows(), 2);
  EXPECT_EQ(scheduler.Layout(16).rows(), 4);
  EXPECT_EQ(scheduler.Layout(16).length(Section::kPageTable), 4 * 16);
  EXPECT_THROW(scheduler.Layout(3), std::invalid_argument);
}

TEST(SchedulerConfigTest, WrongSizesAreRefused) {
  const SchedulerConfig good = {.num_pages = 32,
                                .page_size = 4,
                                .max_rows = 4,
                                .buckets = {4},
                                .max_model_len = 64,
                                .queue_capacity = 8,
                                .row_params = 0};
  Scheduler works(good);
  SchedulerConfig config = good;
  config.num_pages = 0;
  EXPECT_THROW(Scheduler{config}, std::invalid_argument);
  config = good;
  config.queue_capacity = 0;
  EXPECT_THROW(Scheduler{config}, std::invalid_argument);
  config = good;
  config.buckets = {3};
  EXPECT_THROW(Scheduler{config}, std::invalid_argument);
}

}  // namespace
}  // namespace sax
