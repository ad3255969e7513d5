#include "native/sched/request_queue.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <utility>

namespace sax {
namespace {

using Ids = std::vector<int64_t>;
constexpr double kInf = std::numeric_limits<double>::infinity();

void Push(RequestQueue* queue, int64_t id, double deadline = kInf) {
  queue->Push({.id = id, .prompt = {1}, .deadline = deadline});
}

struct Dead {
  std::vector<Dropped> dropped;
  Ids cancelled;
};

Dead DropDead(RequestQueue* queue, double now = 0) {
  Dead dead;
  queue->DropDead(now, &dead.dropped, &dead.cancelled);
  return dead;
}

Ids PopAll(RequestQueue* queue) {
  Ids ids;
  while (queue->Front() != nullptr) ids.push_back(queue->Pop(queue->Front()->id).id);
  return ids;
}

TEST(RequestQueueTest, FirstComeFirstServed) {
  RequestQueue queue(8);
  for (int64_t id : {5, 3, 9}) Push(&queue, id);
  EXPECT_EQ(queue.size(), 3);
  EXPECT_EQ(queue.Front()->id, 5);
  EXPECT_EQ(PopAll(&queue), (Ids{5, 3, 9}));
  EXPECT_EQ(queue.size(), 0);
}

TEST(RequestQueueTest, RefusesMoreThanItsCapacityAndSaysSo) {
  RequestQueue queue(2);
  Push(&queue, 1);
  Push(&queue, 2);
  try {
    Push(&queue, 3);
    FAIL() << "a third request was taken";
  } catch (const QueueFull& error) {
    EXPECT_EQ(std::string(error.what()).substr(0, 22), "2 requests are waiting");
  }
  queue.Pop(queue.Front()->id);
  Push(&queue, 3);
  EXPECT_EQ(PopAll(&queue), (Ids{2, 3}));
}

TEST(RequestQueueTest, HigherPrioritiesGoFirstAndEqualOnesInOrderOfArrival) {
  RequestQueue queue(8);
  int64_t id = 0;
  for (int priority : {0, 2, -1, 2, 0, std::numeric_limits<int>::min()}) {
    queue.Push({.id = id++, .prompt = {1}, .priority = priority});
  }
  EXPECT_EQ(PopAll(&queue), (Ids{1, 3, 0, 4, 2, 5}));
}

TEST(RequestQueueTest, PopTakesTheRequestThatWasLookedAt) {
  RequestQueue queue(8);
  Push(&queue, 1);
  const Request* front = queue.Front();
  queue.Push({.id = 2, .prompt = {1}, .priority = 1});
  EXPECT_EQ(queue.Pop(front->id).id, 1);
  EXPECT_EQ(queue.Front()->id, 2);
}

TEST(RequestQueueTest, RefusesMoreTokensThanMayWaitAndSaysSo) {
  RequestQueue queue(8, 10);
  queue.Push({.id = 1, .prompt = {1, 2, 3, 4, 5, 6}});
  EXPECT_EQ(queue.tokens(), 6);
  try {
    queue.Push({.id = 2, .prompt = {1, 2, 3, 4, 5}});
    FAIL() << "11 tokens wait";
  } catch (const QueueFull& error) {
    EXPECT_EQ(std::string(error.what()),
              "requests with 6 prompt tokens are waiting, and 5 more would pass the 10 that may "
              "wait; try again later or raise max_queued_tokens");
  }
  queue.Push({.id = 2, .prompt = {1, 2, 3, 4}});
  queue.Cancel(1);
  DropDead(&queue);
  EXPECT_EQ(queue.tokens(), 4);
  queue.Forget(2);
  EXPECT_EQ(queue.tokens(), 0);
  queue.Push({.id = 3, .prompt = std::vector<int32_t>(99, 1)});
  EXPECT_EQ(queue.tokens(), 99) << "one that comes alone is taken";
  EXPECT_THROW(RequestQueue(8, 0), std::invalid_argument);
}

TEST(RequestQueueTest, RefusesACapacityBelowOne) {
  EXPECT_THROW(RequestQueue(0), std::invalid_argument);
  EXPECT_THROW(RequestQueue(-1), std::invalid_argument);
}

TEST(RequestQueueTest, IdIsInUseUntilItIsForgotten) {
  RequestQueue queue(8);
  Push(&queue, 1);
  EXPECT_THROW(Push(&queue, 1), std::invalid_argument);
  queue.Pop(queue.Front()->id);
  EXPECT_THROW(Push(&queue, 1), std::invalid_argument);
  queue.Forget(1);
  Push(&queue, 1);
  queue.Forget(1);  // while it waits
  EXPECT_EQ(queue.size(), 0);
  queue.Forget(1);
  Push(&queue, 1);
  EXPECT_EQ(queue.size(), 1);
}

TEST(RequestQueueTest, DropsWhatWasCancelledWhereverItIs) {
  RequestQueue queue(8);
  for (int64_t id : {1, 2, 3}) Push(&queue, id);
  queue.Pop(queue.Front()->id);
  for (int64_t id : {1, 3, 3, 77}) queue.Cancel(id);
  const Dead dead = DropDead(&queue);
  EXPECT_EQ(dead.dropped, (std::vector<Dropped>{{3, DropReason::kCancelled}}));
  EXPECT_EQ(dead.cancelled, (Ids{1}));
  EXPECT_TRUE(DropDead(&queue).cancelled.empty());
  EXPECT_EQ(PopAll(&queue), (Ids{2}));
}

TEST(RequestQueueTest, CancelDoesNotOutliveItsRequest) {
  RequestQueue queue(8);
  Push(&queue, 1);
  queue.Pop(queue.Front()->id);
  queue.Cancel(1);
  queue.Forget(1);
  Push(&queue, 1);  // another request with the id
  const Dead dead = DropDead(&queue);
  EXPECT_TRUE(dead.dropped.empty());
  EXPECT_TRUE(dead.cancelled.empty());
  EXPECT_EQ(queue.size(), 1);
}

TEST(RequestQueueTest, DropsWhatIsLate) {
  RequestQueue queue(8);
  Push(&queue, 1, 10);
  Push(&queue, 2, 5);
  Push(&queue, 3);
  EXPECT_TRUE(DropDead(&queue, 4.9).dropped.empty());
  EXPECT_EQ(DropDead(&queue, 5).dropped, (std::vector<Dropped>{{2, DropReason::kExpired}}));
  EXPECT_TRUE(DropDead(&queue, 9).dropped.empty());
  EXPECT_EQ(DropDead(&queue, 11).dropped, (std::vector<Dropped>{{1, DropReason::kExpired}}));
  EXPECT_EQ(PopAll(&queue), (Ids{3}));
}

TEST(RequestQueueTest, CancelledAndLateCountsAsCancelledOnce) {
  RequestQueue queue(8);
  Push(&queue, 1, 5);
  queue.Cancel(1);
  EXPECT_EQ(DropDead(&queue, 6).dropped, (std::vector<Dropped>{{1, DropReason::kCancelled}}));
}

TEST(RequestQueueTest, WaitTimesOutWithoutWork) {
  RequestQueue queue(8);
  EXPECT_FALSE(queue.Wait(0));
  EXPECT_FALSE(queue.Wait(-1));
  EXPECT_FALSE(queue.Wait(0.001));
}

TEST(RequestQueueTest, WaitReturnsAtOnceForAnyKindOfWork) {
  RequestQueue queue(8);
  Push(&queue, 1);
  EXPECT_TRUE(queue.Wait(kInf));
  queue.Pop(queue.Front()->id);
  EXPECT_FALSE(queue.Wait(0));
  queue.Cancel(1);
  EXPECT_TRUE(queue.Wait(kInf));
  DropDead(&queue);
  EXPECT_FALSE(queue.Wait(0));
  queue.SetBusy(true);
  EXPECT_TRUE(queue.Wait(kInf));
  queue.SetBusy(false);
  queue.Wake();
  EXPECT_TRUE(queue.Wait(kInf));
  EXPECT_FALSE(queue.Wait(0)) << "a wake is used up";
}

template <typename Action>
void ExpectWakes(RequestQueue* queue, Action action) {
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // mostly, Wait() is asleep by now
    action();
  });
  EXPECT_TRUE(queue->Wait(kInf));
  other.join();
}

TEST(RequestQueueTest, SleeperIsWokenByPushCancelWakeAndBusy) {
  RequestQueue queue(8);
  ExpectWakes(&queue, [&] { Push(&queue, 1); });
  queue.Pop(queue.Front()->id);
  ExpectWakes(&queue, [&] { queue.Cancel(1); });
  DropDead(&queue);
  ExpectWakes(&queue, [&] { queue.Wake(); });
  ExpectWakes(&queue, [&] { queue.SetBusy(true); });
}

}  // namespace
}  // namespace sax
