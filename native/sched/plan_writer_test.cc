#include "native/sched/plan_writer.h"

#include <gtest/gtest.h>

#include <vector>

namespace sax {
namespace {

using Ids = std::vector<int32_t>;

constexpr PlanDims kDims = {
    .max_rows = 4, .pages_per_row = 3, .row_params = 2, .num_pages = 32, .page_size = 4};

Ids Of(StepPlan& plan, Section section) {
  const auto words = plan[section];
  return Ids(words.begin(), words.end());
}

Request Prompt(int64_t id, Ids prompt, int width = 1) {
  return {.id = id,
          .prompt = std::move(prompt),
          .width = width,
          .max_new_tokens = 4,
          .row_params = {static_cast<int32_t>(id), 9}};
}

TEST(PlanWriterTest, WritesDecodeRowsAndAPieceOfAPrompt) {
  PagePool pool(32, 4);
  Group decoding(Prompt(1, {10, 11, 12}, 2), &pool);
  decoding.sequences()[0].table.Extend(3);
  decoding.Emitted();
  decoding.Advance(Ids{0, 0}, Ids{13, 14});
  Group prompt(Prompt(2, {20, 21, 22, 23, 24, 25}), &pool);

  PlanWriter writer(PackedLayout(kDims, 8));
  writer.Add({&decoding, 0, 1, 1});
  EXPECT_EQ(decoding.phase(), Group::Phase::kDecode) << "its second sequence is to come";
  writer.Add({&decoding, 1, 1, 1});
  EXPECT_EQ(decoding.phase(), Group::Phase::kAwaiting);
  writer.Add({&prompt, 0, 5, 0});
  EXPECT_EQ(prompt.phase(), Group::Phase::kPrefill) << "one of its tokens is left";
  const auto plan = writer.Finish();

  // Page 0 was shared: the first writer gets page 1, the second keeps page 0; the prompt 2 and 3.
  EXPECT_EQ(Of(*plan, Section::kHeader), (Ids{7, 3, 2, 2, 1, 0, 0, 0}));
  EXPECT_EQ(Of(*plan, Section::kTokens), (Ids{13, 14, 20, 21, 22, 23, 24, 0}));
  EXPECT_EQ(Of(*plan, Section::kPositions), (Ids{3, 3, 0, 1, 2, 3, 4, 0}));
  EXPECT_EQ(Of(*plan, Section::kSlots), (Ids{7, 3, 8, 9, 10, 11, 12, 128}));
  EXPECT_EQ(Of(*plan, Section::kQStart), (Ids{0, 1, 2, 7, 7}));
  EXPECT_EQ(Of(*plan, Section::kKvLen), (Ids{4, 4, 5, 0}));
  EXPECT_EQ(Of(*plan, Section::kPageTable), (Ids{1, 0, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0}));
  EXPECT_EQ(Of(*plan, Section::kCopySrc), (Ids{0, 32, 32, 32}));
  EXPECT_EQ(Of(*plan, Section::kCopyDst), (Ids{1, 32, 32, 32}));
  EXPECT_EQ(Of(*plan, Section::kEntryToken), (Ids{0, 1, 0, 0}));
  EXPECT_EQ(Of(*plan, Section::kEntryTarget), (Ids{-1, -1, -1, -1}));
  EXPECT_EQ(Of(*plan, Section::kEntrySample), (Ids{0, 1, 0, 0}));
  EXPECT_EQ(Of(*plan, Section::kEntryPosition), (Ids{4, 4, 0, 0}));
  EXPECT_EQ(Of(*plan, Section::kEntryParams), (Ids{1, 9, 1, 9, 0, 0, 0, 0}));
  EXPECT_EQ(plan->entry_request, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(plan->row_request, (std::vector<int64_t>{1, 1, 2}));
  EXPECT_EQ(plan->entry_seq, (Ids{0, 1}));
}

TEST(PlanWriterTest, ForkedPromptEmitsOneEntryASample) {
  PagePool pool(32, 4);
  Request request = Prompt(1, {10, 11, 12}, 3);
  request.fork_at_start = true;
  Group group(request, &pool);
  PlanWriter writer(PackedLayout(kDims, 4));
  writer.Add({&group, 0, 3, 3});
  const auto plan = writer.Finish();
  EXPECT_EQ(Of(*plan, Section::kEntryToken), (Ids{2, 2, 2, 0}));
  EXPECT_EQ(Of(*plan, Section::kEntrySample), (Ids{0, 1, 2, 0}));
  EXPECT_EQ(Of(*plan, Section::kEntryPosition), (Ids{3, 3, 3, 0}));
  EXPECT_EQ(plan->entry_seq, (Ids{0, 0, 0}));
  EXPECT_EQ(group.phase(), Group::Phase::kAwaiting);
}

TEST(PlanWriterTest, ScoredPiecesCarryTheirTargets) {
  PagePool pool(32, 4);
  Request request = Prompt(1, {10, 11, 12, 13, 14});
  request.max_new_tokens = 0;
  request.targets = {72, 73, 74};  // for tokens 12, 13 and 14
  Group group(request, &pool);
  PlanWriter first(PackedLayout(kDims, 4));
  first.Add({&group, 0, 4, 2});
  const auto begin = first.Finish();
  EXPECT_EQ(Of(*begin, Section::kEntryToken), (Ids{2, 3, 0, 0}));
  EXPECT_EQ(Of(*begin, Section::kEntryTarget), (Ids{72, 73, -1, -1}));
  EXPECT_EQ(Of(*begin, Section::kEntryPosition), (Ids{3, 4, 0, 0}));
  EXPECT_EQ(group.phase(), Group::Phase::kPrefill);
  PlanWriter second(PackedLayout(kDims, 4));
  second.Add({&group, 0, 1, 1});
  const auto end = second.Finish();
  EXPECT_EQ(Of(*end, Section::kTokens), (Ids{14, 0, 0, 0}));
  EXPECT_EQ(Of(*end, Section::kEntryTarget), (Ids{74, -1, -1, -1}));
  EXPECT_EQ(Of(*end, Section::kEntryPosition), (Ids{5, 0, 0, 0}));
  EXPECT_EQ(group.phase(), Group::Phase::kAwaiting);
}

}  // namespace
}  // namespace sax
