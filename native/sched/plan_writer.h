// PlanWriter turns the rows that the scheduler chose into a StepPlan.
//
//   PlanWriter writer(layout);                      // for the bucket that holds the rows
//   for (const Row& row : rows) writer.Add(row);    // decode rows first
//   std::unique_ptr<StepPlan> plan = writer.Finish();
#ifndef NATIVE_SCHED_PLAN_WRITER_H_
#define NATIVE_SCHED_PLAN_WRITER_H_

#include <memory>

#include "native/sched/group.h"
#include "native/sched/step_plan.h"

namespace sax {

// What one sequence does in a step: `tokens` prompt tokens, or tokens to restore, or its pending
// one.
struct Row {
  Group* group;
  int seq;
  int tokens;
  int entries;
};

class PlanWriter {
 public:
  explicit PlanWriter(const PackedLayout& layout);

  // Extends the sequence's page table and writes its tokens and entries. A group whose entries
  // are out awaits their results from here on.
  void Add(const Row& row);

  std::unique_ptr<StepPlan> Finish();

 private:
  void AddTokens(const Row& row, Sequence& sequence);
  void AddEntries(const Row& row);
  void AddEntry(const Row& row, int token, int32_t target, int sample);

  std::unique_ptr<StepPlan> plan_;
  int num_tokens_ = 0;
  int num_rows_ = 0;
  int num_decode_rows_ = 0;
  int num_entries_ = 0;
  int num_copies_ = 0;
};

}  // namespace sax

#endif  // NATIVE_SCHED_PLAN_WRITER_H_
