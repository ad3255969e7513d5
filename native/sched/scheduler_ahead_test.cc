// Steps that are planned before the tokens of the step before are known.
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

using Ids = std::vector<int32_t>;
using Requests = std::vector<int64_t>;

class SchedulerAheadTest : public testing::Test {
 protected:
  void TearDown() override { scheduler.CheckIntegrity(); }

  void Submit(int64_t id, int prompt, int max_new_tokens, int width = 1, int priority = 0) {
    scheduler.Submit({.id = id,
                      .prompt = Ids(prompt, static_cast<int32_t>(id)),
                      .width = width,
                      .fork_at_start = true,
                      .max_new_tokens = max_new_tokens,
                      .priority = priority});
  }

  void ExpectPlan(const Requests& entries, const Ids& tokens, const Ids& sources) {
    plan = scheduler.Plan(0);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(plan->entry_request, entries);
    const int count = plan->header(HeaderWord::kNumTokens);
    const auto found = (*plan)[Section::kTokens].first(count);
    EXPECT_EQ(Ids(found.begin(), found.end()), tokens);
    const auto from = (*plan)[Section::kTokenSource].first(count);
    EXPECT_EQ(Ids(from.begin(), from.end()), sources);
    scheduler.CheckIntegrity();
  }

  bool RunAhead(const Requests& ids) { return scheduler.RunAhead(ids); }

  Scheduler scheduler{{.num_pages = 16,
                       .page_size = 4,
                       .max_rows = 4,
                       .buckets = {16},
                       .max_model_len = 64,
                       .queue_capacity = 16,
                       .row_params = 0}};
  std::unique_ptr<StepPlan> plan;
};

TEST_F(SchedulerAheadTest, TokensComeFromTheEntriesOfTheStepBefore) {
  Submit(1, 2, 8);
  Submit(2, 2, 8, 2);
  ExpectPlan({1, 2, 2}, {1, 1, 2, 2}, {-1, -1, -1, -1});
  ASSERT_TRUE(RunAhead({1, 2}));
  EXPECT_FALSE(RunAhead({1, 2})) << "one step at most";
  ExpectPlan({1, 2, 2}, {0, 0, 0}, {0, 1, 2});
  EXPECT_EQ(plan->header(HeaderWord::kNumDecodeRows), 3);
  EXPECT_THROW(scheduler.Advance(1, Ids{0}, Ids{7}), std::invalid_argument);
  EXPECT_FALSE(RunAhead({1, 2}));
  scheduler.Resolve(1, Ids{0}, Ids{7});
  scheduler.Resolve(2, Ids{1}, Ids{9});  // sample 0 ended; what its row gives is stale
  ASSERT_TRUE(RunAhead({1, 2}));
  ExpectPlan({1, 2}, {0, 0}, {0, 2});
  EXPECT_EQ((*plan)[Section::kEntrySample][1], 1);
  EXPECT_EQ((*plan)[Section::kPositions][1], 3);
}

TEST_F(SchedulerAheadTest, KnownTokensArePlannedAsSuch) {
  Submit(1, 2, 8);
  ExpectPlan({1}, {1, 1}, {-1, -1});
  ASSERT_TRUE(RunAhead({1}));
  scheduler.Resolve(1, Ids{0}, Ids{7});
  ExpectPlan({1}, {7}, {-1});
}

TEST_F(SchedulerAheadTest, RequestThatEndsWithItsTokenDoesNotRunAhead) {
  Submit(1, 2, 2);
  Submit(2, 2, 1);
  ExpectPlan({1, 2}, {1, 1, 2, 2}, {-1, -1, -1, -1});
  ASSERT_TRUE(RunAhead({1, 2}));
  ExpectPlan({1}, {0}, {0});
  scheduler.Finish(2);
  scheduler.Resolve(1, Ids{0}, Ids{7});
  ASSERT_TRUE(RunAhead({1}));
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  scheduler.Finish(1);
}

TEST_F(SchedulerAheadTest, PagesWithAnUnknownTokenAreNotFoundByOthers) {
  Submit(1, 3, 8);
  ExpectPlan({1}, {1, 1, 1}, {-1, -1, -1});
  ASSERT_TRUE(RunAhead({1}));
  ExpectPlan({1}, {0}, {0});  // fills the page
  scheduler.Finish(1);
  EXPECT_EQ(scheduler.cached_pages(), 0);
  EXPECT_EQ(scheduler.free_pages(), 16);
}

TEST_F(SchedulerAheadTest, OneThatIsToMakeWayIsAdvancedFirst) {
  Submit(1, 2, 50);  // 13 pages
  ExpectPlan({1}, {1, 1}, {-1, -1});
  ASSERT_TRUE(RunAhead({1}));
  Submit(2, 2, 20, 1, 1);
  ExpectPlan({1}, {0}, {0});
  scheduler.Resolve(1, Ids{0}, Ids{7});
  EXPECT_FALSE(RunAhead({1})) << "the second wants its pages";
  scheduler.Advance(1, Ids{0}, Ids{8});
  ExpectPlan({2}, {2, 2}, {-1, -1});
  EXPECT_EQ(scheduler.preemptions(), 1);
}

TEST_F(SchedulerAheadTest, CancelledWhileAheadGivesAllBack) {
  Submit(1, 2, 50);
  ExpectPlan({1}, {1, 1}, {-1, -1});
  ASSERT_TRUE(RunAhead({1}));
  scheduler.Cancel(1);
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  EXPECT_EQ(scheduler.used_pages(), 0);
  EXPECT_THROW(scheduler.Resolve(1, Ids{0}, Ids{7}), std::invalid_argument);
  EXPECT_TRUE(RunAhead({1})) << "unknown ids are ignored";
}

TEST_F(SchedulerAheadTest, WrongResolveChangesNothing) {
  Submit(1, 2, 8, 3);
  ExpectPlan({1, 1, 1}, {1, 1}, {-1, -1});
  EXPECT_THROW(scheduler.Resolve(1, Ids{0}, Ids{7}), std::invalid_argument);
  ASSERT_TRUE(RunAhead({1}));
  EXPECT_THROW(scheduler.Resolve(1, Ids{}, Ids{}), std::invalid_argument);
  EXPECT_THROW(scheduler.Resolve(1, Ids{0, 1}, Ids{7}), std::invalid_argument);
  EXPECT_THROW(scheduler.Resolve(1, Ids{0, 3}, Ids{7, 8}), std::invalid_argument);
  EXPECT_THROW(scheduler.Resolve(1, Ids{2, 0}, Ids{7, 8}), std::invalid_argument);
  scheduler.Resolve(1, Ids{0, 2}, Ids{7, 8});
  ExpectPlan({1, 1}, {7, 8}, {-1, -1});
}

}  // namespace
}  // namespace sax
