// Clients that submit and cancel from their own threads while one engine serves at random: what the
// sanitizers look at. Every request must end, every page must come back.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

constexpr int kClients = 3;
constexpr int kRequestsEach = 300;

SchedulerConfig Config() {
  return {.num_pages = 48,
          .page_size = 4,
          .max_rows = 8,
          .buckets = {2, 8, 32},
          .max_model_len = 64,
          .queue_capacity = 16,
          .row_params = 1};
}

Request RandomRequest(int64_t id, std::mt19937* random) {
  const auto upto = [random](int most) { return static_cast<int>((*random)() % (most + 1)); };
  Request request{.id = id, .prompt = std::vector<int32_t>(1 + upto(30), 5), .row_params = {1}};
  request.cache_salt = upto(1);
  request.cache_read = upto(9) != 0;
  request.priority = upto(2);
  if (upto(4) == 0) {
    request.targets.assign(1 + upto(static_cast<int>(request.prompt.size()) - 1), 6);
    return request;
  }
  request.width = 1 + upto(3);
  request.fork_at_start = upto(1) == 0;
  request.max_new_tokens = 1 + upto(10);
  if (upto(9) == 0) request.deadline = upto(1000);
  return request;
}

void RunClient(Scheduler* scheduler, int client) {
  std::mt19937 random(client);
  for (int i = 0; i < kRequestsEach; ++i) {
    const int64_t id = client * kRequestsEach + i;
    const Request request = RandomRequest(id, &random);
    for (bool taken = false; !taken;) {
      try {
        scheduler->Submit(request);
        taken = true;
      } catch (const QueueFull&) {
        std::this_thread::yield();
      }
    }
    if (random() % 5 == 0) scheduler->Cancel(id - random() % 3);
    EXPECT_LE(scheduler->waiting(), 16 + 3 * 8) << "16 in the queue, and suspended ones";
    EXPECT_LE(scheduler->used_pages(), 48);
    EXPECT_GE(scheduler->used_pages(), 0);
    EXPECT_LE(scheduler->prefix_hit_tokens(), scheduler->prefix_queried_tokens());
  }
}

class Engine {
 public:
  explicit Engine(Scheduler* scheduler) : scheduler_(scheduler) {}

  // One step; the entries' requests go on at random or end. Now and then all of them run ahead into
  // the next step first, and some of their samples end there.
  void Step(double now) {
    if (random_() % 8 == 0) Intrude();
    std::vector<int64_t> ids = Plan(now);
    if (random_() % 3 == 0 && scheduler_->RunAhead(ids)) {
      const std::vector<int64_t> next = Plan(now);
      ahead += !next.empty();
      for (int64_t id : ids) Resolve(id);
      ids.insert(ids.end(), next.begin(), next.end());
    }
    for (int64_t id : ids) GoOn(id);
    scheduler_->CheckIntegrity();
  }

  size_t ended = 0;
  size_t intruders = 0;
  int ahead = 0;  // steps

 private:
  // Brings a request before which all others make way.
  void Intrude() {
    try {
      scheduler_->Submit({.id = 1000000 + static_cast<int64_t>(intruders),
                          .prompt = {1, 2},
                          .width = 8,
                          .max_new_tokens = 4,
                          .row_params = {1},
                          .priority = 3});
      ++intruders;
    } catch (const QueueFull&) {
      // There are others to serve.
    }
  }

  // The requests that have entries.
  std::vector<int64_t> Plan(double now) {
    const auto plan = scheduler_->Plan(now);
    ended += scheduler_->TakeDropped().size();
    if (plan == nullptr) return {};
    std::vector<int64_t> ids = plan->entry_request;
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  }

  void Resolve(int64_t id) {
    try {
      scheduler_->Resolve(id, std::vector<int32_t>{0}, std::vector<int32_t>{9});
    } catch (const std::invalid_argument&) {
      // It did not run ahead.
    }
  }

  void GoOn(int64_t id) {
    const std::vector<int32_t> parents(1 + random_() % 2, 0);
    const std::vector<int32_t> tokens(parents.size(), 9);
    try {
      scheduler_->Advance(id, parents, tokens);
      if (random_() % 8 != 0) return;
    } catch (const std::invalid_argument& error) {
      // It is scored, has all its tokens, or may not be that wide; or it was dropped or has
      // finished, and is counted, or has gone on already.
      const std::string_view what = error.what();
      for (const char* counted : {"does not run", "were not planned"}) {
        if (what.find(counted) != std::string_view::npos) return;
      }
    }
    scheduler_->Finish(id);
    ++ended;
  }

  Scheduler* scheduler_;
  std::mt19937 random_{99};
};

class SchedulerStressTest : public testing::TestWithParam<bool> {};

TEST_P(SchedulerStressTest, EveryRequestEndsAndEveryPageComesBack) {
  SchedulerConfig config = Config();
  config.prefix_cache = GetParam();
  Scheduler scheduler(config);
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back(RunClient, &scheduler, client);
  }
  Engine engine(&scheduler);
  for (double now = 0; engine.ended < kClients * kRequestsEach + engine.intruders; now += 0.5) {
    ASSERT_TRUE(scheduler.Wait(60)) << engine.ended << " ended";
    engine.Step(now);
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(scheduler.Plan(0), nullptr);
  EXPECT_EQ(scheduler.used_pages(), 0);
  EXPECT_EQ(scheduler.cached_pages() > 0, config.prefix_cache);
  EXPECT_EQ(scheduler.prefix_hit_tokens() > 0, config.prefix_cache);
  EXPECT_GT(scheduler.preemptions(), 0);
  EXPECT_GT(engine.ahead, 0);
  EXPECT_EQ(scheduler.stuck(), 0);
  EXPECT_EQ(scheduler.running(), 0);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(scheduler.queued_tokens(), 0);
}

INSTANTIATE_TEST_SUITE_P(PrefixCache, SchedulerStressTest, testing::Bool());

}  // namespace
}  // namespace sax
