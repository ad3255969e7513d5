#include "native/text/utf8_decoder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sax {
namespace {

const std::string kBad = "\xef\xbf\xbd";

std::string Whole(std::string_view bytes) {
  Utf8Decoder decoder;
  const std::string text = decoder.Feed(bytes);
  return text + decoder.Finish();
}

TEST(Utf8DecoderTest, KeepsTheStartOfACharacterUntilItIsComplete) {
  Utf8Decoder decoder;
  EXPECT_EQ(decoder.Feed("a\xf0"), "a");
  EXPECT_EQ(decoder.Feed("\x9f"), "");
  EXPECT_EQ(decoder.Feed(""), "");
  EXPECT_EQ(decoder.Feed("\x99"), "");
  EXPECT_EQ(decoder.Feed("\x82z"), "\xf0\x9f\x99\x82z");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(Utf8DecoderTest, FinishReplacesWhatIsIncompleteAndStartsAfresh) {
  Utf8Decoder decoder;
  EXPECT_EQ(decoder.Feed("\xe0\xb8"), "");
  EXPECT_EQ(decoder.Finish(), kBad);
  EXPECT_EQ(decoder.Finish(), "");
  EXPECT_EQ(decoder.Feed("\xb8"), kBad);
  EXPECT_EQ(decoder.Feed("ok"), "ok");
}

TEST(Utf8DecoderTest, ReplacesMaximalSubparts) {
  // Tables 3-8 to 3-11 of The Unicode Standard, version 15, section 3.9.
  EXPECT_EQ(Whole("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"),
            kBad + kBad + kBad + kBad + kBad + kBad + kBad + kBad + "A");
  EXPECT_EQ(Whole("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"),
            kBad + kBad + kBad + kBad + kBad + kBad + kBad + kBad + "A");
  EXPECT_EQ(Whole("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"),
            kBad + kBad + kBad + kBad + kBad + "A" + kBad + kBad + "B");
  EXPECT_EQ(Whole("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), kBad + kBad + kBad + kBad + "A");
}

TEST(Utf8DecoderTest, TakesTheFirstAndLastCharacterOfEachLength) {
  for (const char* text :
       {"\x01", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(Whole(text), text);
  }
  EXPECT_EQ(Whole(std::string("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Utf8DecoderTest, DoesNotDependOnWhereBytesAreCut) {
  // Thai, Arabic, CJK, an emoji of several code points, and bytes that are not UTF-8.
  const std::string bytes =
      "\xe0\xb8\x81\xe0\xb8\xb3\xd8\xb3\xd9\x84\xe6\x97\xa5\xe6\x9c\xac"
      "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80"
      "\xf0\x9f\xe6\x97\xed\xa0\xc3z\xff";
  const std::string whole = Whole(bytes);
  for (size_t i = 0; i <= bytes.size(); ++i) {
    for (size_t j = i; j <= bytes.size(); ++j) {
      Utf8Decoder decoder;
      std::string text = decoder.Feed(bytes.substr(0, i));
      text += decoder.Feed(bytes.substr(i, j - i));
      text += decoder.Feed(bytes.substr(j));
      EXPECT_EQ(text + decoder.Finish(), whole) << i << " " << j;
    }
  }
}

}  // namespace
}  // namespace sax
