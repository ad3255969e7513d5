#include "native/sched/config.h"

#include <cmath>
#include <stdexcept>

#include "native/base/str_cat.h"
#include "native/sched/group.h"

namespace sax {

SchedulerConfig CheckedConfig(SchedulerConfig config) {
  const auto check_positive = [](const char* name, int value) {
    if (value < 1)
      throw std::invalid_argument(StrCat(name, " is ", value, "; it must be positive"));
  };
  check_positive("max_rows", config.max_rows);
  check_positive("max_model_len", config.max_model_len);
  check_positive("page_size", config.page_size);
  if (config.row_params < 0) {
    throw std::invalid_argument(
        StrCat("row_params is ", config.row_params, "; it must not be negative"));
  }
  if (config.max_preemptions < 0) {
    throw std::invalid_argument(StrCat("max_preemptions is ", config.max_preemptions,
                                       "; it must not be negative, 0 is none"));
  }
  if (config.buckets.empty()) {
    throw std::invalid_argument("buckets is empty; give at least one token count of a step");
  }
  for (size_t i = 0; i < config.buckets.size(); ++i) {
    check_positive("a bucket", config.buckets[i]);
    if (i > 0 && config.buckets[i] <= config.buckets[i - 1]) {
      throw std::invalid_argument(StrCat("bucket ", config.buckets[i], " follows ",
                                         config.buckets[i - 1], "; buckets must ascend"));
    }
  }
  if (config.buckets.back() < config.max_rows) {
    throw std::invalid_argument(StrCat("the last bucket has ", config.buckets.back(),
                                       " tokens; it must hold max_rows = ", config.max_rows));
  }
  return config;
}

void CheckRequest(const SchedulerConfig& config, const Request& request) {
  const auto refuse = [&request](const auto&... why) {
    throw std::invalid_argument(StrCat("request ", request.id, ": ", why...));
  };
  const size_t prompt = request.prompt.size();
  const size_t longest = config.max_model_len;
  if (prompt == 0) refuse("the prompt is empty; give at least one token");
  if (request.max_new_tokens < 0) {
    refuse("max_new_tokens is ", request.max_new_tokens, "; it must not be negative");
  }
  if (prompt > longest || prompt + request.max_new_tokens > longest) {
    refuse("the prompt has ", prompt, " tokens and max_new_tokens is ", request.max_new_tokens,
           "; together they may be at most ", longest, " (max_model_len)");
  }
  if (request.width < 1 || request.width > config.max_rows) {
    refuse("width is ", request.width, "; it must be 1 to ", config.max_rows, " (max_rows)");
  }
  if (request.targets.size() > prompt) {
    refuse(request.targets.size(), " targets for a prompt of ", prompt,
           " tokens; give at most one target a token");
  }
  if (!request.targets.empty() &&
      (request.max_new_tokens != 0 || request.width != 1 || request.fork_at_start)) {
    refuse("it has targets, so it is scored and generates nothing: width must be 1 (is ",
           request.width, "), max_new_tokens 0 (is ", request.max_new_tokens,
           "), fork_at_start false");
  }
  if (request.row_params.size() != static_cast<size_t>(config.row_params)) {
    refuse("row_params has ", request.row_params.size(), " words; this scheduler takes ",
           config.row_params);
  }
  if (std::isnan(request.deadline)) refuse("the deadline is not a number; use inf for none");
  const int64_t pages = WorstCasePages(request, config.page_size);
  if (pages > config.num_pages) {
    refuse("it may need ", pages, " pages of ", config.page_size, " tokens (prompt ", prompt,
           ", max_new_tokens ", request.max_new_tokens, ", width ", request.width,
           ") and there are ", config.num_pages, " in all (num_pages)");
  }
}

}  // namespace sax
