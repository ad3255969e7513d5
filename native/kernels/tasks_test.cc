#include "native/kernels/tasks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sax::kernels {
namespace {

struct Counts {
  std::vector<std::atomic<int>> seen;
  explicit Counts(int n) : seen(n) {}
  static void Add(void* context, int piece) { ++static_cast<Counts*>(context)->seen[piece]; }
  void ExpectOnceEach() const {
    for (const auto& count : seen) EXPECT_EQ(count, 1);
  }
};

TEST(TasksTest, SerialRunnerRunsEachOnce) {
  Counts counts(7);
  SerialRunner().Run(7, Counts::Add, &counts);
  counts.ExpectOnceEach();
}

TEST(TasksTest, PoolRunnerRunsEachOnce) {
  std::vector<std::thread> threads;
  PoolRunner runner(4, [&](std::function<void()> work) { threads.emplace_back(std::move(work)); });
  for (int pieces : {0, 1, 2, 3, 1000}) {
    Counts counts(pieces);
    runner.Run(pieces, Counts::Add, &counts);
    counts.ExpectOnceEach();
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TasksTest, ABusyPoolHoldsNothingUp) {
  std::vector<std::function<void()>> never_run;
  PoolRunner runner(3, [&](std::function<void()> work) { never_run.push_back(std::move(work)); });
  Counts counts(50);
  runner.Run(50, Counts::Add, &counts);
  counts.ExpectOnceEach();
  ASSERT_EQ(never_run.size(), 2u);
  for (auto& late : never_run) late();  // all is done, and the caller gone
  counts.ExpectOnceEach();
}

TEST(TasksTest, ScratchIsAlignedAndOfItsPlace) {
  void* caller = Scratch(Place::kCaller, 1000);
  void* piece = Scratch(Place::kPiece, 1000);
  EXPECT_NE(caller, piece);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(caller) % 64, 0u);
  EXPECT_EQ(Scratch(Place::kCaller, 10), caller) << "it shrinks not";
}

}  // namespace
}  // namespace sax::kernels
