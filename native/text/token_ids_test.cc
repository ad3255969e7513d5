#include "native/text/token_ids.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace sax {
namespace {

using Ids = std::vector<int32_t>;

std::string ErrorOf(std::string_view text) {
  try {
    ParseTokenIds(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(TokenIdsTest, ReadsNumbersWithCommas) {
  EXPECT_EQ(ParseTokenIds("21106,318,281"), (Ids{21106, 318, 281}));
  EXPECT_EQ(ParseTokenIds("7"), (Ids{7}));
  EXPECT_EQ(ParseTokenIds("0,2147483647"), (Ids{0, 2147483647}));
  EXPECT_EQ(ParseTokenIds("007"), (Ids{7}));
}

TEST(TokenIdsTest, SkipsBlanksAroundNumbers) {
  EXPECT_EQ(ParseTokenIds(" 1,\t2 ,3\r\n"), (Ids{1, 2, 3}));
}

TEST(TokenIdsTest, RefusesTextWithoutIds) {
  EXPECT_NE(ErrorOf("").find("no token ids"), std::string::npos);
  EXPECT_NE(ErrorOf(" \n").find("no token ids"), std::string::npos);
}

TEST(TokenIdsTest, NamesThePieceAndItsPlace) {
  EXPECT_EQ(ErrorOf("1,x2,3"),
            "token id 2 of 3 is \"x2\" (at character 3); it must be a number from 0 to 2147483647");
  EXPECT_EQ(ErrorOf("1,,3").substr(0, 24), "token id 2 of 3 is \"\" (a");
  EXPECT_EQ(ErrorOf("1,2,").substr(0, 24), "token id 3 of 3 is \"\" (a");
}

TEST(TokenIdsTest, RefusesWhatIsNotANumberFrom0To2147483647) {
  for (const char* bad : {"-1", "-0", "+1", "1.0", "1e3", "0x10", "2147483648", "1 2",
                          "99999999999999999999", "one", ",", "\xff"}) {
    EXPECT_NE(ErrorOf(bad), "no error") << bad;
  }
}

TEST(TokenIdsTest, QuotesAtMost32BytesAndOnlyPrintableOnes) {
  EXPECT_NE(ErrorOf("1," + std::string(100, 'y')).find("\"" + std::string(32, 'y') + "...\""),
            std::string::npos);
  EXPECT_NE(ErrorOf("\xc3\xa9").find("\"\\xc3\\xa9\""), std::string::npos);
}

TEST(TokenIdsTest, WritesWhatItReads) {
  EXPECT_EQ(FormatTokenIds(Ids{}), "");
  EXPECT_EQ(FormatTokenIds(Ids{5}), "5");
  const Ids ids = {0, 50256, 2147483647};
  EXPECT_EQ(FormatTokenIds(ids), "0,50256,2147483647");
  EXPECT_EQ(ParseTokenIds(FormatTokenIds(ids)), ids);
}

}  // namespace
}  // namespace sax
