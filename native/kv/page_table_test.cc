#include "native/kv/page_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace sax {
namespace {

TEST(PageTableTest, GrowsByPagesAndKnowsSlots) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  EXPECT_FALSE(table.Extend(6));
  ASSERT_EQ(table.pages().size(), 2u);
  EXPECT_EQ(table.Slot(0), table.pages()[0] * 4);
  EXPECT_EQ(table.Slot(5), table.pages()[1] * 4 + 1);
  EXPECT_FALSE(table.Extend(2));
  EXPECT_EQ(table.pages().size(), 2u);
  EXPECT_FALSE(table.Extend(1));
  EXPECT_EQ(table.pages().size(), 3u);
  EXPECT_EQ(pool.free_pages(), 5);
}

TEST(PageTableTest, ReleasesItsPagesWhenItDies) {
  PagePool pool(8, 4);
  {
    PageTable(&pool).Extend(9);
  }
  EXPECT_EQ(pool.free_pages(), 8);
  pool.CheckIntegrity();
}

TEST(PageTableTest, ForkSharesAllPages) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(6);
  const PageTable fork = table.Fork();
  EXPECT_TRUE(std::ranges::equal(fork.pages(), table.pages()));
  EXPECT_EQ(fork.length(), 6);
  EXPECT_EQ(pool.free_pages(), 6);
  EXPECT_EQ(pool.RefCount(table.pages()[0]), 2);
}

TEST(PageTableTest, WriterToASharedPageGetsACopyAndTheLastUserNone) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(6);
  PageTable fork = table.Fork();
  const int32_t shared = table.pages()[1];
  const auto copy = fork.Extend(1);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->src, shared);
  EXPECT_EQ(copy->dst, fork.pages()[1]);
  EXPECT_NE(copy->dst, shared);
  EXPECT_FALSE(table.Extend(1));
  EXPECT_EQ(table.pages()[1], shared);
  EXPECT_EQ(fork.pages()[0], table.pages()[0]);
}

TEST(PageTableTest, FullSharedPageNeedsNoCopy) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(8);
  PageTable fork = table.Fork();
  EXPECT_FALSE(fork.Extend(1));
  EXPECT_EQ(pool.RefCount(table.pages()[1]), 2);
}

TEST(PageTableTest, ChangesNothingWhenThePoolIsShort) {
  PagePool pool(3, 4);
  PageTable table(&pool);
  table.Extend(6);
  PageTable fork = table.Fork();
  EXPECT_THROW(fork.Extend(3), OutOfPages);  // one copy and one fresh page, one is free
  EXPECT_EQ(fork.length(), 6);
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_EQ(pool.RefCount(table.pages()[1]), 2);
  EXPECT_TRUE(fork.Extend(2));
}

TEST(PageTableTest, TrimReleasesThePagesBehind) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(12);
  table.Trim(5);
  EXPECT_EQ(table.length(), 5);
  EXPECT_EQ(table.pages().size(), 2u);
  EXPECT_EQ(pool.free_pages(), 6);
  table.Trim(4);
  EXPECT_EQ(table.pages().size(), 1u);
  EXPECT_THROW(table.Trim(5), std::invalid_argument);
  EXPECT_THROW(table.Trim(-1), std::invalid_argument);
  table.Trim(0);
  EXPECT_EQ(pool.free_pages(), 8);
}

TEST(PageTableTest, WriteAfterATrimIntoASharedPageCopies) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(8);
  PageTable fork = table.Fork();
  fork.Trim(5);
  const auto copy = fork.Extend(1);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->src, table.pages()[1]);
}

TEST(PageTableTest, BeginsWithPagesOfOthersAndGoesOnInItsOwn) {
  PagePool pool(8, 4);
  PageTable first(&pool);
  first.Extend(8);
  PageTable second(&pool);
  second.Share(first.pages());
  EXPECT_EQ(second.length(), 8);
  EXPECT_FALSE(second.Extend(1));
  EXPECT_EQ(second.pages().size(), 3u);
  EXPECT_EQ(pool.RefCount(first.pages()[1]), 2);
  EXPECT_THROW(second.Share(first.pages()), std::invalid_argument);
}

TEST(PageTableTest, UsesAnotherPageOfTheSameContents) {
  PagePool pool(8, 4);
  PageTable first(&pool), second(&pool);
  first.Extend(8);
  second.Extend(8);
  second.Replace(1, first.pages()[1]);
  EXPECT_EQ(second.pages()[1], first.pages()[1]);
  EXPECT_EQ(pool.free_pages(), 5);
  pool.CheckIntegrity();
}

TEST(PageTableTest, MovesKeepOneOwner) {
  PagePool pool(8, 4);
  PageTable table(&pool);
  table.Extend(6);
  PageTable moved = std::move(table);
  EXPECT_EQ(moved.length(), 6);
  PageTable other(&pool);
  other.Extend(1);
  other = std::move(moved);
  EXPECT_EQ(other.length(), 6);
  moved.Trim(0);  // the swapped-out page
  EXPECT_EQ(pool.free_pages(), 6);
  pool.CheckIntegrity();
}

}  // namespace
}  // namespace sax
