#include "native/kv/lru_list.h"

#include <gtest/gtest.h>

#include <vector>

namespace sax {
namespace {

std::vector<int32_t> Items(const LruList& list) {
  std::vector<int32_t> items;
  for (int32_t i = list.Next(list.End()); i != list.End(); i = list.Next(i)) items.push_back(i);
  return items;
}

TEST(LruListTest, OldestIsWhatCameInFirst) {
  LruList list(8);
  EXPECT_EQ(list.size(), 0);
  for (int32_t item : {5, 0, 7}) list.Push(item);
  EXPECT_EQ(list.size(), 3);
  EXPECT_EQ(list.oldest(), 5);
  EXPECT_EQ(Items(list), (std::vector<int32_t>{5, 0, 7}));
  list.Remove(5);
  EXPECT_EQ(list.oldest(), 0);
  list.Push(5);
  EXPECT_EQ(Items(list), (std::vector<int32_t>{0, 7, 5}));
}

TEST(LruListTest, TakesOutFromAnywhereAndKnowsWhoIsIn) {
  LruList list(3);
  for (int32_t item : {0, 1, 2}) list.Push(item);
  list.Remove(1);
  EXPECT_FALSE(list.Contains(1));
  EXPECT_TRUE(list.Contains(0));
  list.Remove(2);
  list.Remove(0);
  EXPECT_EQ(list.size(), 0);
  EXPECT_FALSE(list.Contains(0));
  list.Push(2);
  EXPECT_TRUE(list.Contains(2));
  EXPECT_EQ(list.oldest(), 2);
}

}  // namespace
}  // namespace sax
