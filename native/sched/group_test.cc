#include "native/sched/group.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <string>

namespace sax {
namespace {

using Ids = std::vector<int32_t>;

Request Prompt(int tokens, int width = 1, int max_new_tokens = 8) {
  Request request{.id = 7, .width = width, .max_new_tokens = max_new_tokens};
  request.prompt.resize(tokens);
  std::iota(request.prompt.begin(), request.prompt.end(), 100);
  return request;
}

Request Scored(int tokens, int targets) {
  Request request = Prompt(tokens, 1, 0);
  request.targets.assign(targets, 5);
  return request;
}

// A group whose prompt is in and whose entries are out.
Group Prefilled(PagePool* pool, int tokens, int width, int max_new_tokens = 8) {
  Group group(Prompt(tokens, width, max_new_tokens), pool);
  group.sequences()[0].table.Extend(tokens);
  group.Emitted();
  return group;
}

std::string AdvanceError(Group* group, const Ids& parents, const Ids& tokens) {
  try {
    group->Advance(parents, tokens);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

void ExpectChunk(const Chunk& chunk, int tokens, int entries) {
  EXPECT_EQ(chunk.tokens, tokens);
  EXPECT_EQ(chunk.entries, entries);
}

TEST(WorstCasePagesTest, CountsPagesFullOfPromptOnce) {
  EXPECT_EQ(WorstCasePages(Prompt(8, 1, 4), 4), 3);
  EXPECT_EQ(WorstCasePages(Prompt(8, 3, 4), 4), 2 + 3 * 1);
  EXPECT_EQ(WorstCasePages(Prompt(7, 3, 4), 4), 1 + 3 * 2);
  EXPECT_EQ(WorstCasePages(Prompt(3, 2, 0), 4), 2);
  EXPECT_EQ(WorstCasePages(Prompt(8, 1, 0), 4), 2);
  EXPECT_EQ(WorstCasePages(Prompt(1, 1 << 20, 1 << 20), 1), 1 + (int64_t{1} << 40));
}

TEST(GroupTest, PromptIsTakenInChunksAndItsEndEmits) {
  PagePool pool(64, 4);
  Group group(Prompt(10), &pool);
  ExpectChunk(group.NextChunk(4, 1), 4, 0);
  group.sequences()[0].table.Extend(4);
  ExpectChunk(group.NextChunk(5, 0), 5, 0);
  ExpectChunk(group.NextChunk(6, 1), 6, 1);
  ExpectChunk(group.NextChunk(100, 3), 6, 1);
}

TEST(GroupTest, PromptWhoseEndEmitsTooManyEntriesWaits) {
  PagePool pool(64, 4);
  Request request = Prompt(10, 4);
  request.fork_at_start = true;
  Group group(request, &pool);
  ExpectChunk(group.NextChunk(10, 3), 0, 0);
  ExpectChunk(group.NextChunk(10, 4), 10, 4);
  ExpectChunk(group.NextChunk(9, 0), 9, 0);
}

TEST(GroupTest, ScoringIsCutSoThatItsEntriesFit) {
  PagePool pool(64, 4);
  Group group(Scored(10, 6), &pool);
  EXPECT_EQ(group.first_entry(), 4);
  ExpectChunk(group.NextChunk(100, 100), 10, 6);
  ExpectChunk(group.NextChunk(100, 2), 6, 2);
  ExpectChunk(group.NextChunk(5, 2), 5, 1);
  ExpectChunk(group.NextChunk(3, 2), 3, 0);
  ExpectChunk(group.NextChunk(100, 0), 4, 0);
  group.sequences()[0].table.Extend(6);
  ExpectChunk(group.NextChunk(100, 3), 3, 3);
  ExpectChunk(group.NextChunk(100, 0), 0, 0);
}

TEST(GroupTest, ChildrenShareTheirParentsPages) {
  PagePool pool(64, 4);
  Group group = Prefilled(&pool, 6, 3);
  group.Advance(Ids{0, 0, 0}, Ids{1, 2, 3});
  ASSERT_EQ(group.sequences().size(), 3u);
  EXPECT_EQ(group.phase(), Group::Phase::kDecode);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(group.sequences()[i].pending, i + 1);
    EXPECT_EQ(group.sequences()[i].table.pages()[1], group.sequences()[0].table.pages()[1]);
  }
  EXPECT_EQ(pool.free_pages(), 62);
  EXPECT_EQ(pool.RefCount(group.sequences()[0].table.pages()[0]), 3);
}

TEST(GroupTest, BeamsJoinAgainAndTheOthersPagesAreReleased) {
  PagePool pool(64, 4);
  Group group = Prefilled(&pool, 6, 3);
  group.Advance(Ids{0, 0, 0}, Ids{1, 2, 3});
  for (Sequence& sequence : group.sequences()) sequence.table.Extend(1);
  EXPECT_EQ(pool.free_pages(), 60);
  const int32_t kept = group.sequences()[1].table.pages()[1];
  group.Emitted();
  group.Advance(Ids{1, 1}, Ids{4, 5});
  EXPECT_EQ(pool.free_pages(), 62);
  EXPECT_EQ(group.sequences()[0].table.pages()[1], kept);
  EXPECT_EQ(pool.RefCount(kept), 2);
  pool.CheckIntegrity();
}

TEST(GroupTest, BeginsBehindThePagesOfOthers) {
  PagePool pool(64, 4);
  PrefixIndex index(&pool);
  Group first = Prefilled(&pool, 10, 1);
  first.EnterPages(&index);
  const auto pages = first.sequences()[0].table.pages();
  Group second(Prompt(10), &pool, pages.first(2));
  EXPECT_EQ(second.prefilled(), 8);
  ExpectChunk(second.NextChunk(100, 1), 2, 1);
  EXPECT_EQ(pool.RefCount(pages[0]), 3);
}

TEST(GroupTest, FullPagesOfPromptAndGeneratedTokensAreEntered) {
  PagePool pool(64, 4);
  PrefixIndex index(&pool);
  Group group = Prefilled(&pool, 6, 1);  // tokens 100..105
  Ids found;
  const auto match = [&] {
    index.Match(Ids{100, 101, 102, 103, 104, 105, 1, 2, 3, 4, 5, 6}, 0, 9, &found);
    return found.size();
  };
  group.EnterPages(&index);
  EXPECT_EQ(match(), 1u);
  for (int32_t token : {1, 2, 3, 4, 5}) {
    group.Advance(Ids{0}, Ids{token});
    group.sequences()[0].table.Extend(1);
    group.Emitted();
  }
  group.EnterPages(&index);
  EXPECT_EQ(match(), 2u) << "the third page has room";
  group.Advance(Ids{0}, Ids{6});
  group.EnterPages(&index);
  EXPECT_EQ(match(), 2u) << "its last token is pending";
  group.sequences()[0].table.Extend(1);
  group.EnterPages(&index);
  EXPECT_EQ(match(), 3u);
  index.CheckIntegrity();
}

TEST(GroupTest, PageThatAnotherEnteredFirstIsUsedInsteadOfTheOwn) {
  PagePool pool(64, 4);
  PrefixIndex index(&pool);
  Group first = Prefilled(&pool, 4, 1), second = Prefilled(&pool, 4, 2);
  first.EnterPages(&index);
  second.Advance(Ids{0, 0}, Ids{1, 2});
  second.EnterPages(&index);
  const int32_t page = first.sequences()[0].table.pages()[0];
  for (const Sequence& beam : second.sequences()) EXPECT_EQ(beam.table.pages()[0], page);
  EXPECT_EQ(pool.free_pages(), 63);
}

TEST(GroupTest, ChildrenMayCrossOver) {
  PagePool pool(64, 4);
  Group group = Prefilled(&pool, 6, 2);
  group.Advance(Ids{0, 0}, Ids{1, 2});
  for (Sequence& sequence : group.sequences()) sequence.table.Extend(1);
  const int32_t first = group.sequences()[0].table.pages()[1];
  const int32_t second = group.sequences()[1].table.pages()[1];
  group.Emitted();
  group.Advance(Ids{1, 0}, Ids{3, 4});
  EXPECT_EQ(group.sequences()[0].table.pages()[1], second);
  EXPECT_EQ(group.sequences()[1].table.pages()[1], first);
}

TEST(GroupTest, WrongAdvanceSaysWhyAndChangesNothing) {
  PagePool pool(64, 4);
  Group fresh(Prompt(6), &pool);
  EXPECT_NE(AdvanceError(&fresh, {0}, {1}).find("were not planned"), std::string::npos);
  Group group = Prefilled(&pool, 6, 2, 1);
  EXPECT_NE(AdvanceError(&group, {0}, {1, 2}).find("1 parents and 2 tokens"), std::string::npos);
  EXPECT_NE(AdvanceError(&group, {}, {}).find("with 0 sequences"), std::string::npos);
  EXPECT_NE(AdvanceError(&group, {0, 0, 0}, {1, 2, 3}).find("allows 1 to 2"), std::string::npos);
  EXPECT_NE(AdvanceError(&group, {1}, {1}).find("no sequence 1"), std::string::npos);
  EXPECT_NE(AdvanceError(&group, {-1}, {1}).find("no sequence -1"), std::string::npos);
  EXPECT_EQ(group.phase(), Group::Phase::kAwaiting);
  EXPECT_EQ(AdvanceError(&group, {0}, {1}), "no error");
  group.sequences()[0].table.Extend(1);
  group.Emitted();
  EXPECT_NE(AdvanceError(&group, {0}, {1}).find("all 1 new tokens"), std::string::npos);
}

TEST(GroupTest, ScoredGroupIsOnlyFinished) {
  PagePool pool(64, 4);
  Group group(Scored(4, 2), &pool);
  group.sequences()[0].table.Extend(4);
  group.Emitted();
  EXPECT_NE(AdvanceError(&group, {0}, {1}).find("it is scored; finish it"), std::string::npos);
}

}  // namespace
}  // namespace sax
