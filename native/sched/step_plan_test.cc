#include "native/sched/step_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace sax {
namespace {

constexpr PlanDims kDims = {
    .max_rows = 4, .pages_per_row = 3, .row_params = 2, .num_pages = 10, .page_size = 16};

TEST(PackedLayoutTest, SectionsFollowOneAnother) {
  const PackedLayout layout(kDims, 8);
  EXPECT_EQ(layout.rows(), 4);
  int64_t end = 0;
  for (int i = 0; i < kNumSections; ++i) {
    EXPECT_EQ(layout.offset(static_cast<Section>(i)), end);
    end += layout.length(static_cast<Section>(i));
  }
  EXPECT_EQ(layout.size(), end);
  EXPECT_EQ(layout.size(), 8 + 4 * 8 + 5 + 4 + 4 * 3 + 6 * 4 + 4 * 2);
}

TEST(PackedLayoutTest, LengthsAreThoseOfTheBucket) {
  const PackedLayout layout(kDims, 8);
  EXPECT_EQ(layout.length(Section::kHeader), 8);
  EXPECT_EQ(layout.length(Section::kSlots), 8);
  EXPECT_EQ(layout.length(Section::kQStart), 5);
  EXPECT_EQ(layout.length(Section::kPageTable), 12);
  EXPECT_EQ(layout.length(Section::kEntryParams), 8);
}

TEST(PackedLayoutTest, SmallBucketHasNoMoreRowsThanTokens) {
  const PackedLayout layout(kDims, 2);
  EXPECT_EQ(layout.rows(), 2);
  EXPECT_EQ(layout.length(Section::kQStart), 3);
  EXPECT_EQ(layout.length(Section::kCopySrc), 2);
}

TEST(PackedLayoutTest, EachSectionHasItsName) {
  std::set<std::string_view> names;
  for (int i = 0; i < kNumSections; ++i) names.insert(SectionName(static_cast<Section>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kNumSections));
  EXPECT_EQ(SectionName(Section::kHeader), "header");
  EXPECT_EQ(SectionName(Section::kQStart), "q_start");
  EXPECT_EQ(SectionName(Section::kEntryParams), "entry_params");
}

TEST(StepPlanTest, IsPaddedEverywhere) {
  StepPlan plan(PackedLayout(kDims, 8));
  for (int i = 0; i < kNumSections; ++i) {
    const Section section = static_cast<Section>(i);
    int32_t padding = 0;
    if (section == Section::kSlots) padding = 160;
    if (section == Section::kCopySrc || section == Section::kCopyDst) padding = 10;
    if (section == Section::kEntryTarget || section == Section::kTokenSource) padding = -1;
    EXPECT_TRUE(std::ranges::all_of(plan[section], [=](int32_t x) { return x == padding; }))
        << SectionName(section);
  }
}

TEST(StepPlanTest, SectionsAndHeaderAreViewsOfThePackedArray) {
  StepPlan plan(PackedLayout(kDims, 8));
  plan[Section::kTokens][1] = 42;
  plan.header(HeaderWord::kNumCopies) = 3;
  EXPECT_EQ(plan.packed()[8 + 1], 42);
  EXPECT_EQ(plan.packed()[4], 3);
}

}  // namespace
}  // namespace sax
