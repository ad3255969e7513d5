#include "native/kv/prefix_index.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "native/kv/page_table.h"

namespace sax {
namespace {

using Ids = std::vector<int32_t>;

constexpr int kSize = 4;

class PrefixIndexTest : public testing::Test {
 protected:
  void TearDown() override {
    pool.CheckIntegrity();
    index.CheckIntegrity();
  }

  // A table for `tokens` whose full pages are in the index.
  PageTable Entered(PrefixIndex* into, const Ids& tokens, uint64_t salt = 0) {
    PageTable table(&pool);
    table.Extend(static_cast<int>(tokens.size()));
    int32_t parent = PrefixIndex::kNoParent;
    for (size_t i = 0; (i + 1) * kSize <= tokens.size(); ++i) {
      const auto own = std::span(tokens).subspan(i * kSize, kSize);
      parent = into->Enter(parent, own, salt, table.pages()[i]);
      if (parent != table.pages()[i]) table.Replace(static_cast<int>(i), parent);
    }
    return table;
  }

  Ids Found(const Ids& tokens, uint64_t salt = 0, int max_pages = 99) {
    Ids pages;
    index.Match(tokens, salt, max_pages, &pages);
    return pages;
  }

  static Ids Pages(const PageTable& table, int count) {
    return {table.pages().begin(), table.pages().begin() + count};
  }

  static Ids Range(int first, int count) {
    Ids ids(count);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }

  PagePool pool{8, kSize};
  PrefixIndex index{&pool};
};

TEST_F(PrefixIndexTest, FindsTheLongestBeginning) {
  const PageTable table = Entered(&index, Range(0, 10));
  EXPECT_EQ(Found(Range(0, 10)), Pages(table, 2)) << "the third page is not full";
  EXPECT_EQ(Found(Range(0, 7)), Pages(table, 1));
  EXPECT_EQ(Found(Range(0, 3)), Ids{});
  EXPECT_EQ(Found({0, 1, 2, 3, 4, 5, 6, 99}), Pages(table, 1));
  EXPECT_EQ(Found(Range(4, 8)), Ids{}) << "the second page alone is another text";
  EXPECT_EQ(Found(Range(0, 10), 0, 1), Pages(table, 1));
  EXPECT_EQ(index.size(), 2);
}

TEST_F(PrefixIndexTest, SaltsDoNotShare) {
  const PageTable table = Entered(&index, Range(0, 8), 1);
  EXPECT_EQ(Found(Range(0, 8), 2), Ids{});
  const PageTable other = Entered(&index, Range(0, 8), 2);
  EXPECT_EQ(Found(Range(0, 8), 1), Pages(table, 2));
  EXPECT_EQ(Found(Range(0, 8), 2), Pages(other, 2));
}

TEST_F(PrefixIndexTest, SecondOfTheSameContentsGivesWay) {
  const PageTable first = Entered(&index, Range(0, 8));
  const PageTable second = Entered(&index, Range(0, 8));
  EXPECT_EQ(Pages(second, 2), Pages(first, 2));
  EXPECT_EQ(pool.free_pages(), 6);
  EXPECT_EQ(pool.RefCount(first.pages()[0]), 3) << "two tables and the index";
}

TEST_F(PrefixIndexTest, CollisionFindsNothingOfOthers) {
  PagePool small(8, kSize);
  PrefixIndex same(&small, [](uint64_t, std::span<const int32_t>) -> uint64_t { return 5; });
  const Ids a = Range(0, kSize), b = Range(50, kSize);
  const int32_t pages[] = {small.Allocate(), small.Allocate(), small.Allocate(), small.Allocate()};
  EXPECT_EQ(same.Enter(PrefixIndex::kNoParent, a, 0, pages[0]), pages[0]);
  EXPECT_EQ(same.Enter(PrefixIndex::kNoParent, b, 0, pages[1]), pages[1]);
  EXPECT_EQ(same.Enter(pages[0], b, 0, pages[2]), pages[2]) << "other parent";
  EXPECT_EQ(same.Enter(PrefixIndex::kNoParent, a, 7, pages[3]), pages[3]) << "other salt";
  same.CheckIntegrity();
  Ids found;
  const auto match = [&](Ids tokens, const Ids& behind, uint64_t salt) {
    tokens.insert(tokens.end(), behind.begin(), behind.end());
    same.Match(tokens, salt, 9, &found);
    return found;
  };
  EXPECT_EQ(match(a, b, 0), (Ids{pages[0], pages[2]}));
  EXPECT_EQ(match(a, a, 0), (Ids{pages[0]}));
  EXPECT_EQ(match(b, b, 0), (Ids{pages[1]}));
  EXPECT_EQ(match(a, b, 7), (Ids{pages[3]}));
  EXPECT_EQ(match(b, {}, 7), Ids{});
}

TEST_F(PrefixIndexTest, PagesAreTakenOnlyWhenNoneIsFreeFromTheEndsOfTheOldest) {
  const Ids a = Range(0, 12), b = Range(100, 8);
  Ids pages_a, pages_b;
  {
    const PageTable first = Entered(&index, a);
    const PageTable second = Entered(&index, b);
    pages_a = Pages(first, 3);
    pages_b = Pages(second, 2);
  }  // b is let go first, then a
  EXPECT_EQ(pool.free_pages(), 3);
  EXPECT_EQ(pool.cached_pages(), 5);
  PageTable table(&pool);
  table.Extend(3 * kSize);
  EXPECT_EQ(index.size(), 5);
  table.Extend(kSize);
  EXPECT_EQ(Found(b), Ids{pages_b[0]});
  table.Extend(2 * kSize);
  EXPECT_EQ(Found(b), Ids{});
  EXPECT_EQ(Found(a), (Ids{pages_a[0], pages_a[1]}));
  index.CheckIntegrity();
}

TEST_F(PrefixIndexTest, UseMakesPagesYoungAndUsedOnesStay) {
  const Ids a = Range(0, 8), b = Range(100, 8);
  {
    const PageTable table = Entered(&index, a);
  }
  {
    const PageTable table = Entered(&index, b);
  }
  {
    PageTable user(&pool);
    user.Share(Found(a));
    EXPECT_EQ(user.length(), 8);
    EXPECT_EQ(pool.cached_pages(), 2);
  }
  PageTable reader(&pool);
  reader.Share(Found(a, 0, 1));
  PageTable writer(&pool);
  writer.Extend(6 * kSize);  // four were free; b's two go
  EXPECT_EQ(Found(b), Ids{});
  EXPECT_EQ(Found(a).size(), 2u);
  writer.Extend(kSize);
  EXPECT_EQ(Found(a).size(), 1u);
  EXPECT_THROW(writer.Extend(kSize), OutOfPages) << "the last one is used";
}

TEST_F(PrefixIndexTest, RefusesWhatWouldBreakAChain) {
  const int32_t page = pool.Allocate();
  EXPECT_THROW(index.Enter(PrefixIndex::kNoParent, Range(0, 3), 0, page), std::invalid_argument);
  EXPECT_THROW(index.Enter(7, Range(0, 4), 0, page), std::invalid_argument);
  pool.Release(page);
}

TEST_F(PrefixIndexTest, GivesItsPagesBackWhenItDies) {
  PagePool small(4, kSize);
  {
    PrefixIndex dies(&small);
    const int32_t page = small.Allocate();
    dies.Enter(PrefixIndex::kNoParent, Range(0, 4), 0, page);
    small.Release(page);
    EXPECT_EQ(small.cached_pages(), 1);
  }
  EXPECT_EQ(small.free_pages(), 4);
  small.CheckIntegrity();
}

TEST(HashPageTest, DependsOnEveryTokenItsPlaceAndTheParent) {
  const uint64_t hash = HashPage(1, Ids{0, 1});
  EXPECT_EQ(hash, HashPage(1, Ids{0, 1}));
  EXPECT_NE(hash, HashPage(1, Ids{1, 0}));
  EXPECT_NE(hash, HashPage(1, Ids{0, 2}));
  EXPECT_NE(hash, HashPage(2, Ids{0, 1}));
  EXPECT_NE(HashPage(0, Ids{0}), HashPage(0, Ids{0, 0}));
}

}  // namespace
}  // namespace sax
