// SchedulerConfig has the sizes of a scheduler; the functions say what they refuse, and why.
//
//   SchedulerConfig config = CheckedConfig({.num_pages = 512, .page_size = 16, .max_rows = 8,
//                                           .buckets = {8, 64, 512}, .max_model_len = 2048,
//                                           .queue_capacity = 128, .row_params = 8});
//   CheckRequest(config, {.id = 7, .prompt = {}});  // throws: request 7: the prompt is empty; ...
#ifndef NATIVE_SCHED_CONFIG_H_
#define NATIVE_SCHED_CONFIG_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "native/sched/request.h"

namespace sax {

struct SchedulerConfig {
  int num_pages;
  int page_size;
  int max_rows;              // most sequences at once
  std::vector<int> buckets;  // token counts of a step, ascending; the last is at least max_rows
  int max_model_len;         // most tokens of a sequence, prompt included
  int queue_capacity;
  int row_params;  // words of Request::row_params
  bool prefix_cache = true;
  int max_preemptions = 3;  // of one request; then it runs to its end
  int64_t max_queued_tokens = std::numeric_limits<int64_t>::max();  // see RequestQueue
};

// Gives `config` back. Throws std::invalid_argument for sizes that do not fit together (page counts
// are left to PagePool, the queue's bounds to RequestQueue).
SchedulerConfig CheckedConfig(SchedulerConfig config);

// Throws std::invalid_argument for a request that could never run under `config`.
void CheckRequest(const SchedulerConfig& config, const Request& request);

}  // namespace sax

#endif  // NATIVE_SCHED_CONFIG_H_
