#include "native/sched/mix_rule.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {

MixRule::MixRule(std::vector<int> buckets)
    : buckets_(std::move(buckets)), largest_(buckets_.size(), buckets_.back()) {}

void MixRule::Set(std::vector<int> largest) {
  if (largest.size() != buckets_.size()) {
    throw std::invalid_argument(StrCat("there are ", largest.size(), " bounds for ",
                                       buckets_.size(), " buckets; give one for each"));
  }
  for (size_t i = 0; i < largest.size(); ++i) {
    if (largest[i] < buckets_[i] || !std::ranges::binary_search(buckets_, largest[i])) {
      throw std::invalid_argument(StrCat("the bound of bucket ", buckets_[i], " is ", largest[i],
                                         "; it must be a bucket that is no smaller"));
    }
  }
  largest_ = std::move(largest);
}

int MixRule::Tokens(int decode_rows) const {
  if (decode_rows == 0) return buckets_.back();
  const auto own = std::ranges::lower_bound(buckets_, decode_rows);
  const int bound = largest_[own - buckets_.begin()];
  if (bound - decode_rows >= kLeastChunk) return bound;
  const auto roomy = std::ranges::lower_bound(buckets_, decode_rows + kLeastChunk);
  return roomy == buckets_.end() ? buckets_.back() : *roomy;
}

}  // namespace sax
