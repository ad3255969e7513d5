#include "native/kv/page_pool.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

namespace sax {
namespace {

TEST(PagePoolTest, HandsOutEachPageOnce) {
  PagePool pool(4, 16);
  std::set<int32_t> pages;
  for (int i = 0; i < 4; ++i) pages.insert(pool.Allocate());
  EXPECT_EQ(pages, (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(pool.free_pages(), 0);
  pool.CheckIntegrity();
}

TEST(PagePoolTest, ThrowsWhenEmptyAndGoesOnAfterARelease) {
  PagePool pool(1, 16);
  const int32_t page = pool.Allocate();
  EXPECT_THROW(pool.Allocate(), OutOfPages);
  pool.Release(page);
  EXPECT_EQ(pool.Allocate(), page);
}

TEST(PagePoolTest, PageIsFreeWhenItsLastUserIsGone) {
  PagePool pool(2, 16);
  const int32_t page = pool.Allocate();
  pool.Retain(page);
  EXPECT_EQ(pool.RefCount(page), 2);
  pool.Release(page);
  EXPECT_EQ(pool.RefCount(page), 1);
  EXPECT_EQ(pool.free_pages(), 1);
  pool.Release(page);
  EXPECT_EQ(pool.RefCount(page), 0);
  EXPECT_EQ(pool.free_pages(), 2);
  pool.CheckIntegrity();
}

TEST(PagePoolTest, RefusesPagesThatAreFreeOrUnknown) {
  PagePool pool(2, 16);
  EXPECT_THROW(pool.Release(0), std::invalid_argument);
  EXPECT_THROW(pool.Retain(1), std::invalid_argument);
  EXPECT_THROW(pool.RefCount(2), std::invalid_argument);
  EXPECT_THROW(pool.Release(-1), std::invalid_argument);
  pool.CheckIntegrity();
}

TEST(PagePoolTest, PageThatOnlyTheCacheUsesIsCachedAndTakenLast) {
  PagePool pool(3, 16);
  std::vector<int32_t> lost;
  pool.OnEvict([&lost](int32_t page) { lost.push_back(page); });
  const int32_t first = pool.Allocate(), second = pool.Allocate();
  pool.Keep(first);
  pool.Keep(second);
  EXPECT_EQ(pool.RefCount(first), 2);
  EXPECT_EQ(pool.cached_pages(), 0);
  pool.Release(second);
  pool.Release(first);
  EXPECT_EQ(pool.cached_pages(), 2);
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_EQ(pool.available_pages(), 3);
  pool.CheckIntegrity();
  pool.Retain(second);
  EXPECT_EQ(pool.cached_pages(), 1);
  pool.Allocate();
  EXPECT_TRUE(lost.empty());
  EXPECT_EQ(pool.Allocate(), first);
  EXPECT_EQ(lost, std::vector<int32_t>{first});
  EXPECT_FALSE(pool.Kept(first));
  EXPECT_THROW(pool.Allocate(), OutOfPages);
  pool.Unkeep(second);
  EXPECT_EQ(pool.RefCount(second), 1);
  pool.CheckIntegrity();
}

TEST(PagePoolTest, RefusesToMixUpTheCacheAndOthers) {
  PagePool pool(2, 16);
  EXPECT_THROW(pool.Keep(0), std::invalid_argument);
  const int32_t page = pool.Allocate();
  EXPECT_THROW(pool.Unkeep(page), std::invalid_argument);
  pool.Keep(page);
  EXPECT_THROW(pool.Keep(page), std::invalid_argument);
  pool.Release(page);
  EXPECT_THROW(pool.Release(page), std::invalid_argument) << "the cache's own use";
  pool.Unkeep(page);
  EXPECT_EQ(pool.free_pages(), 2);
}

TEST(PagePoolTest, RefusesSizesThatCannotWork) {
  EXPECT_THROW(PagePool(0, 16), std::invalid_argument);
  EXPECT_THROW(PagePool(4, 0), std::invalid_argument);
  EXPECT_THROW(PagePool(1 << 20, 1 << 12), std::invalid_argument);
}

}  // namespace
}  // namespace sax
