#include "native/sched/plan_writer.h"

#include <algorithm>
#include <numeric>

namespace sax {

PlanWriter::PlanWriter(const PackedLayout& layout) : plan_(std::make_unique<StepPlan>(layout)) {}

void PlanWriter::Add(const Row& row) {
  Group& group = *row.group;
  const bool decode = group.phase() == Group::Phase::kDecode;
  AddTokens(row, group.sequences()[row.seq]);
  AddEntries(row);
  plan_->row_request.push_back(group.request().id);
  num_tokens_ += row.tokens;
  ++num_rows_;
  num_decode_rows_ += decode;
  if (group.phase() == Group::Phase::kRestore) return group.Restored();
  const bool last = decode ? row.seq + 1 == static_cast<int>(group.sequences().size())
                           : group.prefilled() == static_cast<int>(group.request().prompt.size());
  if (last) group.Emitted();
}

void PlanWriter::AddTokens(const Row& row, Sequence& sequence) {
  StepPlan& plan = *plan_;
  PageTable& table = sequence.table;
  const int begin = table.length();
  if (const auto copy = table.Extend(row.tokens)) {
    plan[Section::kCopySrc][num_copies_] = copy->src;
    plan[Section::kCopyDst][num_copies_] = copy->dst;
    ++num_copies_;
  }
  int32_t* const tokens = plan[Section::kTokens].data() + num_tokens_;
  if (row.group->phase() == Group::Phase::kDecode) {
    if (sequence.source < 0) {
      tokens[0] = sequence.pending;
    } else {
      plan[Section::kTokenSource][num_tokens_] = sequence.source;
    }
  } else {
    for (int i = 0; i < row.tokens; ++i) tokens[i] = row.group->token(sequence, begin + i);
  }
  int32_t* const positions = plan[Section::kPositions].data() + num_tokens_;
  std::iota(positions, positions + row.tokens, begin);
  int32_t* const slots = plan[Section::kSlots].data() + num_tokens_;
  for (int i = 0; i < row.tokens; ++i) slots[i] = table.Slot(begin + i);
  plan[Section::kQStart][num_rows_] = num_tokens_;
  plan[Section::kKvLen][num_rows_] = table.length();
  std::ranges::copy(table.pages(), plan[Section::kPageTable].data() +
                                       num_rows_ * plan.layout().dims().pages_per_row);
}

void PlanWriter::AddEntries(const Row& row) {
  Group& group = *row.group;
  const int last = num_tokens_ + row.tokens - 1;
  group.sequences()[row.seq].entry = num_entries_;
  if (group.phase() == Group::Phase::kRestore) return;
  if (group.phase() == Group::Phase::kDecode) {
    AddEntry(row, last, -1, group.sequences()[row.seq].sample);
  } else if (group.scored()) {
    // The entries belong to the row's last tokens, up to position prefilled() - 1.
    const int32_t* const targets =
        group.request().targets.data() + group.prefilled() - row.entries - group.first_entry();
    for (int i = 0; i < row.entries; ++i) {
      AddEntry(row, last - row.entries + 1 + i, targets[i], 0);
    }
  } else {
    for (int sample = 0; sample < row.entries; ++sample) AddEntry(row, last, -1, sample);
  }
}

void PlanWriter::AddEntry(const Row& row, int token, int32_t target, int sample) {
  StepPlan& plan = *plan_;
  const Request& request = row.group->request();
  plan.entry_request.push_back(request.id);
  plan.entry_seq.push_back(row.seq);
  plan[Section::kEntryToken][num_entries_] = token;
  plan[Section::kEntryTarget][num_entries_] = target;
  plan[Section::kEntrySample][num_entries_] = sample;
  plan[Section::kEntryPosition][num_entries_] = plan[Section::kPositions][token] + 1;
  std::ranges::copy(request.row_params, plan[Section::kEntryParams].data() +
                                            num_entries_ * plan.layout().dims().row_params);
  ++num_entries_;
}

std::unique_ptr<StepPlan> PlanWriter::Finish() {
  StepPlan& plan = *plan_;
  plan.header(HeaderWord::kNumTokens) = num_tokens_;
  plan.header(HeaderWord::kNumRows) = num_rows_;
  plan.header(HeaderWord::kNumDecodeRows) = num_decode_rows_;
  plan.header(HeaderWord::kNumEntries) = num_entries_;
  plan.header(HeaderWord::kNumCopies) = num_copies_;
  std::ranges::fill(plan[Section::kQStart].subspan(num_rows_), num_tokens_);
  return std::move(plan_);
}

}  // namespace sax
