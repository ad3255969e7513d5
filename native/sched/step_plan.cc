#include "native/sched/step_plan.h"

#include <algorithm>

namespace sax {

std::string_view SectionName(Section section) {
  static constexpr std::array<std::string_view, kNumSections> kNames = {
      "header",      "tokens",       "token_source", "positions",      "slots",
      "q_start",     "kv_len",       "page_table",   "copy_src",       "copy_dst",
      "entry_token", "entry_target", "entry_sample", "entry_position", "entry_params",
  };
  return kNames[static_cast<int>(section)];
}

PackedLayout::PackedLayout(const PlanDims& dims, int bucket)
    : dims_(dims), bucket_(bucket), rows_(std::min(bucket, dims.max_rows)) {
  const int64_t T = bucket, R = rows_;
  const std::array<int64_t, kNumSections> lengths = {
      8, T, T, T, T, R + 1, R, R * dims.pages_per_row, R, R, R, R, R, R, R * dims.row_params,
  };
  starts_[0] = 0;
  for (int i = 0; i < kNumSections; ++i) starts_[i + 1] = starts_[i] + lengths[i];
}

StepPlan::StepPlan(const PackedLayout& layout) : layout_(layout), packed_(layout.size()) {
  const PlanDims& dims = layout.dims();
  std::ranges::fill((*this)[Section::kTokenSource], -1);
  std::ranges::fill((*this)[Section::kSlots], dims.num_pages * dims.page_size);
  std::ranges::fill((*this)[Section::kCopySrc], dims.num_pages);
  std::ranges::fill((*this)[Section::kCopyDst], dims.num_pages);
  std::ranges::fill((*this)[Section::kEntryTarget], -1);
  entry_request.reserve(layout.rows());
  entry_seq.reserve(layout.rows());
  row_request.reserve(layout.rows());
}

}  // namespace sax
