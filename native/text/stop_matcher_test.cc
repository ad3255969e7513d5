#include "native/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

namespace sax {
namespace {

using Stops = std::vector<std::string>;

TEST(StopMatcherTest, FindsAStopStringAcrossPieces) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Feed("a E"), "a ");
  EXPECT_EQ(matcher.Feed("N.\n"), "EN.");
  EXPECT_EQ(matcher.matched(), std::nullopt);
  EXPECT_EQ(matcher.Feed("\nb"), "");
  EXPECT_EQ(matcher.matched(), "\n\n");
  EXPECT_EQ(matcher.Feed("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, HoldsBackNoMoreThanCouldStillMatch) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Feed("aa"), "");
  EXPECT_EQ(matcher.Feed("a"), "a");  // aa is still held
  EXPECT_EQ(matcher.Feed("c"), "aac");
  EXPECT_EQ(matcher.Feed("xa"), "x");
  EXPECT_EQ(matcher.Finish(), "a");
}

TEST(StopMatcherTest, FallsBackToAShorterStopStringInsideALongerOne) {
  StopMatcher matcher({"abcd", "bx", "c!"});
  EXPECT_EQ(matcher.Feed("abc"), "");
  EXPECT_EQ(matcher.Feed("!"), "ab");
  EXPECT_EQ(matcher.matched(), "c!");
}

TEST(StopMatcherTest, TheOneCompleteFirstCountsAndThenTheLongest) {
  StopMatcher first({"abcd", "bc"});
  EXPECT_EQ(first.Feed("abcd"), "a");
  EXPECT_EQ(first.matched(), "bc");
  StopMatcher longest({"c", "abc", "bc"});
  EXPECT_EQ(longest.Feed("xabc"), "x");
  EXPECT_EQ(longest.matched(), "abc");
}

TEST(StopMatcherTest, WithoutStopStringsEverythingPasses) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Feed("abc"), "abc");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, RefusesAnEmptyStopString) {
  try {
    StopMatcher matcher({"a", ""});
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()),
              "stop string 2 of 2 is empty; it must have a character at least");
  }
}

// The rules, byte by byte, as slowly as they are written.
struct Slow {
  Stops stops;
  std::string text;
  std::string given;
  bool found = false;

  void Add(char byte) {
    if (found) return;
    text += byte;
    size_t longest = 0;
    for (const auto& stop : stops) {
      if (text.ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) {
      found = true;
      given = text.substr(0, text.size() - longest);
      return;
    }
    size_t held = 0;
    for (const auto& stop : stops) {
      for (size_t n = 1; n < stop.size(); ++n) {
        if (text.ends_with(stop.substr(0, n))) held = std::max(held, n);
      }
    }
    given = text.substr(0, text.size() - held);
  }
};

TEST(StopMatcherTest, RandomTextsInRandomPieces) {
  std::mt19937 random(5);
  const auto word = [&](int longest) {
    std::string made(1 + random() % longest, 'a');
    for (char& c : made) c = static_cast<char>('a' + random() % 2);
    return made;
  };
  int matches = 0;
  for (int round = 0; round < 3000; ++round) {
    Stops stops(1 + random() % 4);
    for (auto& stop : stops) stop = word(7);
    Slow slow;
    slow.stops = stops;
    StopMatcher matcher(stops);
    std::string given;
    for (int piece = 0; piece < 8; ++piece) {
      const std::string text = word(5);
      for (const char c : text) slow.Add(c);
      given += matcher.Feed(text);
      ASSERT_EQ(given, slow.given);
      ASSERT_EQ(matcher.matched().has_value(), slow.found);
    }
    matches += slow.found;
    given += matcher.Finish();
    ASSERT_EQ(given, slow.found ? slow.given : slow.text);
  }
  EXPECT_GT(matches, 300);
  EXPECT_LT(matches, 2990);
}

}  // namespace
}  // namespace sax
