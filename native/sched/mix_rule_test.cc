#include "native/sched/mix_rule.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace sax {
namespace {

TEST(MixRuleTest, WithoutBoundsEveryStepMayUseTheLargestBucket) {
  const MixRule rule({4, 16, 64});
  EXPECT_EQ(rule.Tokens(0), 64);
  EXPECT_EQ(rule.Tokens(1), 64);
  EXPECT_EQ(rule.Tokens(64), 64);
}

TEST(MixRuleTest, TheBoundIsThatOfTheBucketOfTheDecodeRows) {
  MixRule rule({4, 16, 64, 256});
  rule.Set({16, 64, 64, 256});
  EXPECT_EQ(rule.Tokens(0), 256);
  EXPECT_EQ(rule.Tokens(1), 16);
  EXPECT_EQ(rule.Tokens(4), 16);
  EXPECT_EQ(rule.Tokens(5), 64);
  EXPECT_EQ(rule.Tokens(16), 64);
  EXPECT_EQ(rule.Tokens(17), 64);
  EXPECT_EQ(rule.Tokens(65), 256);
}

TEST(MixRuleTest, PromptsGetAPieceWorthItsStep) {
  MixRule rule({4, 16, 64});
  rule.Set({4, 16, 64});
  EXPECT_EQ(rule.Tokens(1), 16);
  EXPECT_EQ(rule.Tokens(8), 16);
  EXPECT_EQ(rule.Tokens(9), 64);
  EXPECT_EQ(rule.Tokens(60), 64);  // the largest leaves four
}

TEST(MixRuleTest, RefusesBoundsThatAreNone) {
  MixRule rule({4, 16, 64});
  EXPECT_THROW(rule.Set({4, 16}), std::invalid_argument);
  EXPECT_THROW(rule.Set({4, 16, 65}), std::invalid_argument);
  EXPECT_THROW(rule.Set({4, 4, 64}), std::invalid_argument);
}

}  // namespace
}  // namespace sax
