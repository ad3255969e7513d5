#include "native/sched/reservation.h"

#include <gtest/gtest.h>

#include <vector>

namespace sax {
namespace {

using Ids = std::vector<int32_t>;

TEST(ReservationTest, RowsAndPagesAreBounded) {
  Reservation book(/*max_rows=*/4, /*num_pages=*/10);
  EXPECT_FALSE(book.Fits({5, 1, {}}));
  EXPECT_FALSE(book.Fits({1, 11, {}}));
  book.Add({3, 8, {}});
  EXPECT_FALSE(book.Fits({2, 1, {}}));
  EXPECT_FALSE(book.Fits({1, 3, {}}));
  EXPECT_TRUE(book.Fits({1, 2, {}}));
}

TEST(ReservationTest, PagesThatSeveralHoldCountOnce) {
  Reservation book(8, 10);
  const Ids pages = {7, 3, 5, 1};
  book.Add({1, 6, pages});
  EXPECT_EQ(book.pages(), 6);
  EXPECT_FALSE(book.Fits({1, 6, {}}));
  book.Add({1, 6, pages});
  EXPECT_EQ(book.pages(), 8);
  EXPECT_EQ(book.holders(5), 2);
  EXPECT_TRUE(book.Fits({1, 6, pages}));
  EXPECT_TRUE(book.Fits({1, 4, Ids{7, 3, 0}}));
  EXPECT_FALSE(book.Fits({1, 5, Ids{7, 3, 0}}));
}

TEST(ReservationTest, HeldPagesStayReservedUntilTheLastHolderGoes) {
  Reservation book(8, 10);
  const Ids pages = {0, 1, 2};
  book.Add({2, 5, pages});
  book.Add({1, 4, pages});
  book.Remove({2, 5, pages});
  EXPECT_EQ(book.pages(), 4);
  EXPECT_EQ(book.rows(), 1);
  book.Remove({1, 4, pages});
  EXPECT_EQ(book.pages(), 0);
  EXPECT_EQ(book.rows(), 0);
  EXPECT_EQ(book.holders(1), 0);
}

}  // namespace
}  // namespace sax
