// MixRule keeps prompts from slowing down those who decode: it bounds the tokens of a step by the
// number of decode rows in it. What a step costs is measured by whoever runs it.
//
//   MixRule rule({8, 64, 512});
//   rule.Set({64, 64, 512});  // up to 8 decode rows: prompts may fill a step of 64 tokens
//   rule.Tokens(5);           // 64
#ifndef NATIVE_SCHED_MIX_RULE_H_
#define NATIVE_SCHED_MIX_RULE_H_

#include <vector>

namespace sax {

class MixRule {
 public:
  // The least that decode rows leave to prompts, if the largest bucket has it: smaller pieces would
  // read all weights for next to nothing.
  static constexpr int kLeastChunk = 8;

  // `buckets`: token counts of a step, ascending. Until Set(), every step may use the largest.
  explicit MixRule(std::vector<int> buckets);

  // largest[i]: the bucket that prompts may fill up when the decode rows alone fit into buckets[i].
  // Throws std::invalid_argument unless there is one for each bucket, it is one of the buckets, and
  // it is no smaller than buckets[i].
  void Set(std::vector<int> largest);

  // The most tokens of a step with so many decode rows; without any, all that fits into the
  // largest bucket. Leaves at least kLeastChunk to prompts, or what the largest bucket leaves.
  int Tokens(int decode_rows) const;

 private:
  std::vector<int> buckets_;
  std::vector<int> largest_;
};

}  // namespace sax

#endif  // NATIVE_SCHED_MIX_RULE_H_
