// Requests of low priority make way, and go on later as if nothing had happened.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {

// Breaks what nothing in the scheduler's interface can.
class SchedulerPeer {
 public:
  static void LosePages(Scheduler* scheduler, int64_t pages) {
    scheduler->reservation_.Add({0, pages, {}});
  }
};

namespace {

using Ids = std::vector<int32_t>;
using Requests = std::vector<int64_t>;

Ids Range(int first, int count) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

class SchedulerPreemptTest : public testing::TestWithParam<bool> {
 protected:
  static SchedulerConfig Config() {
    return {.num_pages = 16,
            .page_size = 4,
            .max_rows = 4,
            .buckets = {16},
            .max_model_len = 64,
            .queue_capacity = 16,
            .row_params = 0,
            .prefix_cache = GetParam()};
  }

  void SetUp() override { Make(Config()); }
  void TearDown() override { scheduler->CheckIntegrity(); }

  void Make(const SchedulerConfig& config) { scheduler = std::make_unique<Scheduler>(config); }

  void Submit(int64_t id, int priority, int prompt, int max_new_tokens, int width = 1) {
    scheduler->Submit({.id = id,
                       .prompt = Range(100 * static_cast<int32_t>(id), prompt),
                       .width = width,
                       .max_new_tokens = max_new_tokens,
                       .priority = priority});
  }

  void ExpectPlan(int tokens, const Requests& entries) {
    plan = scheduler->Plan(now);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(plan->header(HeaderWord::kNumTokens), tokens);
    EXPECT_EQ(plan->entry_request, entries);
    scheduler->CheckIntegrity();
  }

  std::span<const int32_t> Tokens() {
    return (*plan)[Section::kTokens].first(plan->header(HeaderWord::kNumTokens));
  }

  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<StepPlan> plan;
  double now = 0;
};

TEST_P(SchedulerPreemptTest, LowerPriorityMakesWayAndGoesOnWhereItWas) {
  Submit(1, 0, 6, 40);  // 12 of 16 pages
  ExpectPlan(6, {1});
  for (int32_t token : {7, 8, 9}) {
    scheduler->Advance(1, Ids{0}, Ids{token});
    if (token != 9) ExpectPlan(1, {1});
  }
  Submit(2, 1, 8, 16);  // 6 pages
  ExpectPlan(8, {2});   // and no token of the first one
  EXPECT_EQ(scheduler->preemptions(), 1);
  EXPECT_EQ(scheduler->running(), 1);
  EXPECT_EQ(scheduler->waiting(), 1);
  EXPECT_EQ(scheduler->cached_pages(), GetParam() ? 2 : 0);
  EXPECT_THROW(scheduler->Advance(1, Ids{0}, Ids{1}), std::invalid_argument);
  EXPECT_TRUE(scheduler->Wait(0));
  scheduler->Finish(2);
  EXPECT_TRUE(scheduler->Wait(0));
  const int found = GetParam() ? 4 : 0;  // one page: a token at least is computed again
  ExpectPlan(8 - found, {});
  Ids before = Range(100, 6);
  before.insert(before.end(), {7, 8});
  EXPECT_TRUE(std::ranges::equal(Tokens(), std::span(before).subspan(found)));
  ExpectPlan(1, {1});
  EXPECT_EQ(Tokens()[0], 9);
  EXPECT_EQ((*plan)[Section::kPositions][0], 8);
  EXPECT_EQ((*plan)[Section::kKvLen][0], 9);
  EXPECT_EQ(plan->header(HeaderWord::kNumDecodeRows), 1);
  EXPECT_EQ(scheduler->prefix_queried_tokens(), GetParam() ? 14 : 0) << "counted once a request";
}

TEST_P(SchedulerPreemptTest, OneThatAwaitsTokensIsNoVictimUntilTheyAreThere) {
  Submit(1, 0, 6, 40);
  ExpectPlan(6, {1});
  Submit(2, 1, 8, 16);
  EXPECT_EQ(scheduler->Plan(0), nullptr);
  EXPECT_EQ(scheduler->preemptions(), 0);
  scheduler->Advance(1, Ids{0}, Ids{7});
  ExpectPlan(8, {2});
  EXPECT_EQ(scheduler->preemptions(), 1);
}

TEST_P(SchedulerPreemptTest, EqualPriorityNeverMakesWay) {
  Submit(1, 1, 6, 40);
  ExpectPlan(6, {1});
  scheduler->Advance(1, Ids{0}, Ids{7});
  Submit(2, 1, 8, 16);
  ExpectPlan(1, {1});
  EXPECT_EQ(scheduler->preemptions(), 0);
}

TEST_P(SchedulerPreemptTest, VictimsAreTheLowestThenTheLatestAndNoneTooMany) {
  Submit(1, 0, 2, 12);
  Submit(2, -1, 2, 12);
  Submit(3, 0, 2, 12);
  ExpectPlan(6, {1, 3, 2});
  for (int64_t id : {1, 2, 3}) scheduler->Advance(id, Ids{0}, Ids{7});
  const auto running_after = [this](int64_t id, int width) {
    Submit(id, 1, 2, 2, width);
    plan = scheduler->Plan(0);
    Requests running = plan->entry_request;
    for (int64_t other : running) {
      if (other < 10) scheduler->Advance(other, Ids{0}, Ids{7});
    }
    scheduler->Finish(id);
    scheduler->CheckIntegrity();
    return running;
  };
  EXPECT_EQ(running_after(10, 1), (Requests{1, 3, 2, 10})) << "there is a row";
  EXPECT_EQ(running_after(11, 2), (Requests{1, 3, 11})) << "the lowest goes";
  EXPECT_EQ(scheduler->preemptions(), 1);
}

TEST_P(SchedulerPreemptTest, VictimThatALaterOneMakesNeedlessIsSpared) {
  Submit(1, 0, 2, 2, 3);
  Submit(2, -1, 2, 2, 1);
  ExpectPlan(4, {1, 2});
  scheduler->Advance(1, Ids{0}, Ids{7});
  scheduler->Advance(2, Ids{0}, Ids{7});
  Submit(3, 1, 2, 2, 3);  // needs the rows of the first; that of the second is not enough
  ExpectPlan(3, {2, 3});
  EXPECT_EQ(scheduler->preemptions(), 1);
}

TEST_P(SchedulerPreemptTest, NoneIsSuspendedIfAllTogetherAreNotEnough) {
  Submit(1, 5, 6, 40);  // 12 pages
  Submit(2, 0, 2, 2);
  ExpectPlan(8, {1, 2});
  scheduler->Advance(1, Ids{0}, Ids{7});
  scheduler->Advance(2, Ids{0}, Ids{7});
  Submit(3, 1, 8, 16);  // 6 pages
  ExpectPlan(2, {1, 2});
  EXPECT_EQ(scheduler->preemptions(), 0);
}

TEST_P(SchedulerPreemptTest, ScoredTokensAreNotScoredAgain) {
  scheduler->Submit({.id = 1, .prompt = Range(0, 40), .targets = Range(60, 40)});  // 10 pages
  ExpectPlan(4, {1, 1, 1, 1});
  ExpectPlan(4, {1, 1, 1, 1});
  Submit(2, 1, 8, 20);
  ExpectPlan(8, {2});
  scheduler->Finish(2);
  // The first eight are computed again, or found; the ninth is scored for the first time.
  ExpectPlan(GetParam() ? 4 : 12, {1, 1, 1, 1});
  EXPECT_EQ((*plan)[Section::kEntryTarget][0], 68);
  EXPECT_EQ((*plan)[Section::kEntryPosition][0], 9);
}

TEST_P(SchedulerPreemptTest, BeamsAreRestoredOnTheirCommonPages) {
  SchedulerConfig config = Config();
  config.num_pages = 32;
  Make(config);
  Submit(1, 0, 10, 14, 3);  // 2 + 3 * 4 pages
  ExpectPlan(10, {1});
  scheduler->Advance(1, Ids{0, 0, 0}, Ids{7, 8, 9});
  ExpectPlan(3, {1, 1, 1});
  scheduler->Advance(1, Ids{0, 0, 2}, Ids{17, 18, 19});
  Submit(2, 1, 4, 56, 1);
  Submit(3, 1, 4, 40, 1);
  ExpectPlan(8, {2, 3});
  EXPECT_EQ(scheduler->preemptions(), 1);
  EXPECT_EQ(scheduler->used_pages(), 2);
  scheduler->Finish(2);
  scheduler->Finish(3);
  if (!GetParam()) {
    ExpectPlan(11, {});  // the first beam; the others wait for its two full pages
    EXPECT_EQ(plan->header(HeaderWord::kNumRows), 1);
    ExpectPlan(6, {});  // three tokens behind them
    EXPECT_EQ(plan->header(HeaderWord::kNumRows), 2);
    EXPECT_EQ((*plan)[Section::kPositions][0], 8);
  } else {
    ExpectPlan(9, {});
    EXPECT_EQ(plan->header(HeaderWord::kNumRows), 3);
  }
  EXPECT_EQ(scheduler->used_pages(), 2 + 3);
  ExpectPlan(3, {1, 1, 1});
  EXPECT_TRUE(std::ranges::equal(Tokens(), Ids{17, 18, 19}));
  EXPECT_EQ((*plan)[Section::kPositions][2], 11);
}

TEST_P(SchedulerPreemptTest, NobodyIsSuspendedMoreOftenThanAllowed) {
  Submit(1, 0, 6, 40);
  for (int64_t id = 2; id < 6; ++id) {
    while (true) {
      plan = scheduler->Plan(0);
      ASSERT_NE(plan, nullptr);
      if (!plan->entry_request.empty()) break;
    }
    scheduler->Advance(1, Ids{0}, Ids{7});
    Submit(id, 1, 8, 16);
    plan = scheduler->Plan(0);
    const bool preempted = id < 5;
    EXPECT_EQ(plan->entry_request, Requests{preempted ? id : 1});
    if (preempted) scheduler->Finish(id);
  }
  EXPECT_EQ(scheduler->preemptions(), 3);
}

TEST_P(SchedulerPreemptTest, SuspendedRequestsEndLikeOthers) {
  scheduler->Submit({.id = 1, .prompt = Range(0, 4), .max_new_tokens = 8, .deadline = 10});
  Submit(2, 0, 4, 8);
  Submit(3, 0, 4, 8);
  ExpectPlan(12, {1, 2, 3});
  for (int64_t id : {1, 2, 3}) scheduler->Advance(id, Ids{0}, Ids{7});
  Submit(4, 1, 4, 60);  // all pages
  ExpectPlan(4, {4});
  EXPECT_EQ(scheduler->preemptions(), 3);
  EXPECT_EQ(scheduler->waiting(), 3);
  scheduler->Cancel(2);
  now = 10;
  EXPECT_EQ(scheduler->Plan(now), nullptr);
  EXPECT_EQ(scheduler->TakeDropped(),
            (std::vector<Dropped>{{2, DropReason::kCancelled}, {1, DropReason::kExpired}}));
  scheduler->Finish(3);
  EXPECT_EQ(scheduler->waiting(), 0);
  scheduler->Finish(4);
  EXPECT_EQ(scheduler->Plan(now), nullptr);
  EXPECT_FALSE(scheduler->Wait(0));
  EXPECT_EQ(scheduler->used_pages(), 0);
  Submit(1, 0, 4, 8);  // the ids are free again
  ExpectPlan(4, {1});
}

TEST_P(SchedulerPreemptTest, SuspendedComeBeforeThoseThatCameLater) {
  Submit(1, 0, 6, 40);
  ExpectPlan(6, {1});
  scheduler->Advance(1, Ids{0}, Ids{7});
  Submit(2, 0, 6, 2);
  Submit(3, 1, 8, 40);
  ExpectPlan(8, {3});
  EXPECT_EQ(scheduler->waiting(), 2);
  Submit(4, 2, 1, 1);
  scheduler->Finish(3);
  plan = scheduler->Plan(0);
  EXPECT_EQ(plan->entry_request, (Requests{4, 2})) << "the first is restored between them";
  ExpectPlan(1, {1});
}

TEST_P(SchedulerPreemptTest, StuckRequestIsGivenUpWithAReason) {
  SchedulerPeer::LosePages(scheduler.get(), 10);
  Submit(1, 0, 4, 40);
  Submit(2, 0, 4, 4);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(scheduler->stuck(), 0);
    EXPECT_EQ(scheduler->Plan(0), nullptr);
  }
  EXPECT_EQ(scheduler->stuck(), 1);
  EXPECT_EQ(scheduler->TakeDropped(), (std::vector<Dropped>{{1, DropReason::kStuck}}));
  plan = scheduler->Plan(0);
  ASSERT_NE(plan, nullptr) << "the others go on";
  EXPECT_EQ(plan->entry_request, Requests{2});
  scheduler->Finish(2);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(scheduler->Plan(0), nullptr);
  EXPECT_EQ(scheduler->stuck(), 1) << "nothing to do is not stuck";
  SchedulerPeer::LosePages(scheduler.get(), -10);
}

INSTANTIATE_TEST_SUITE_P(PrefixCache, SchedulerPreemptTest, testing::Bool());

}  // namespace
}  // namespace sax
