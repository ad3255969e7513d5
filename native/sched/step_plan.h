// StepPlan is one step of the device as one flat int32 array, so that it travels in one transfer.
// PackedLayout says where each section lies in it; it depends on the bucket alone.
//
//   PlanDims dims{.max_rows = 8, .pages_per_row = 128, .row_params = 8, .num_pages = 512,
//                 .page_size = 16};
//   StepPlan plan(PackedLayout(dims, /*bucket=*/32));   // padded everywhere
//   plan[Section::kTokens][0] = 42;
//   plan.header(HeaderWord::kNumTokens) = 1;
//
// T is the bucket, R = min(T, max_rows) its rows, MP the pages of the longest sequence and W the
// parameters of a row. A row is one sequence's tokens in this step; an entry is one token whose
// logits are wanted.
#ifndef NATIVE_SCHED_STEP_PLAN_H_
#define NATIVE_SCHED_STEP_PLAN_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace sax {

struct PlanDims {
  int max_rows;
  int pages_per_row;  // MP
  int row_params;     // W
  int num_pages;
  int page_size;
};

enum class Section {
  kHeader,         // [8] the HeaderWords
  kTokens,         // [T] input ids; padding 0
  kTokenSource,    // [T] entry of the step before whose choice the input id is, -1: tokens has it;
                   // padding -1
  kPositions,      // [T] positions, counted from 0; padding 0
  kSlots,          // [T] page * page_size + offset to write; padding num_pages * page_size
  kQStart,         // [R + 1] first token of each row; num_tokens beyond the last
  kKvLen,          // [R] length of the row's sequence after this step; padding 0
  kPageTable,      // [R * MP] row-major; padding 0
  kCopySrc,        // [R] pages to copy before anything is written; padding num_pages
  kCopyDst,        // [R] where to; padding num_pages
  kEntryToken,     // [R] index of the token whose logits are wanted; padding 0
  kEntryTarget,    // [R] token whose log-probability is wanted, -1: none; padding -1
  kEntrySample,    // [R] sample index inside the request; padding 0
  kEntryPosition,  // [R] position of the token that will be produced; padding 0
  kEntryParams,    // [R * W] the request's row_params; padding 0
};
inline constexpr int kNumSections = static_cast<int>(Section::kEntryParams) + 1;

// The name of a section as Python knows it: "tokens", "entry_params", ...
std::string_view SectionName(Section section);

enum class HeaderWord { kNumTokens, kNumRows, kNumDecodeRows, kNumEntries, kNumCopies };

class PackedLayout {
 public:
  PackedLayout(const PlanDims& dims, int bucket);

  int bucket() const { return bucket_; }
  int rows() const { return rows_; }
  const PlanDims& dims() const { return dims_; }
  int64_t offset(Section section) const { return starts_[static_cast<int>(section)]; }
  int64_t length(Section section) const {
    return starts_[static_cast<int>(section) + 1] - offset(section);
  }
  int64_t size() const { return starts_[kNumSections]; }

 private:
  PlanDims dims_;
  int bucket_;
  int rows_;
  std::array<int64_t, kNumSections + 1> starts_;
};

class StepPlan {
 public:
  // A plan of padding only; q_start is the writer's to complete.
  explicit StepPlan(const PackedLayout& layout);

  StepPlan(const StepPlan&) = delete;
  StepPlan& operator=(const StepPlan&) = delete;

  std::span<int32_t> operator[](Section section) {
    return {packed_.data() + layout_.offset(section), static_cast<size_t>(layout_.length(section))};
  }
  int32_t& header(HeaderWord word) { return packed_[static_cast<int>(word)]; }
  int32_t header(HeaderWord word) const { return packed_[static_cast<int>(word)]; }

  const PackedLayout& layout() const { return layout_; }
  std::vector<int32_t>& packed() { return packed_; }

  // Whose entries these are: request id and index of the sequence inside the request's group.
  std::vector<int64_t> entry_request;
  std::vector<int32_t> entry_seq;
  // Whose tokens each row has.
  std::vector<int64_t> row_request;

 private:
  PackedLayout layout_;
  std::vector<int32_t> packed_;
};

}  // namespace sax

#endif  // NATIVE_SCHED_STEP_PLAN_H_
