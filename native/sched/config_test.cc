#include "native/sched/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace sax {
namespace {

SchedulerConfig Good() {
  return {.num_pages = 16,
          .page_size = 4,
          .max_rows = 4,
          .buckets = {4, 8},
          .max_model_len = 100,
          .queue_capacity = 8,
          .row_params = 1};
}

Request GoodRequest() {
  return {.id = 7, .prompt = {1, 2, 3}, .max_new_tokens = 4, .row_params = {0}};
}

template <typename Change>
std::string ConfigError(Change change) {
  SchedulerConfig config = Good();
  change(config);
  try {
    CheckedConfig(config);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

template <typename Change>
std::string RequestError(Change change) {
  Request request = GoodRequest();
  change(request);
  try {
    CheckRequest(Good(), request);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(CheckedConfigTest, GivesAGoodOneBack) {
  EXPECT_EQ(CheckedConfig(Good()).buckets, (std::vector<int>{4, 8}));
}

TEST(CheckedConfigTest, NamesTheSizeThatDoesNotFit) {
  using C = SchedulerConfig&;
  EXPECT_EQ(ConfigError([](C c) { c.max_rows = 0; }), "max_rows is 0; it must be positive");
  EXPECT_EQ(ConfigError([](C c) { c.page_size = -4; }), "page_size is -4; it must be positive");
  EXPECT_EQ(ConfigError([](C c) { c.max_model_len = 0; }),
            "max_model_len is 0; it must be positive");
  EXPECT_EQ(ConfigError([](C c) { c.row_params = -1; }),
            "row_params is -1; it must not be negative");
  EXPECT_EQ(ConfigError([](C c) { c.buckets = {}; }),
            "buckets is empty; give at least one token count of a step");
  EXPECT_EQ(ConfigError([](C c) { c.buckets = {0, 8}; }), "a bucket is 0; it must be positive");
  EXPECT_EQ(ConfigError([](C c) { c.buckets = {8, 8}; }),
            "bucket 8 follows 8; buckets must ascend");
  EXPECT_EQ(ConfigError([](C c) { c.buckets = {1, 3}; }),
            "the last bucket has 3 tokens; it must hold max_rows = 4");
}

TEST(CheckRequestTest, TakesWhatFitsExactly) {
  EXPECT_EQ(RequestError([](Request&) {}), "no error");
  EXPECT_EQ(RequestError([](Request& r) { r.max_new_tokens = 61; }), "no error");  // 16 pages
  EXPECT_EQ(RequestError([](Request& r) { r.max_new_tokens = 0; }), "no error");
  EXPECT_EQ(RequestError([](Request& r) { r.targets = {1, 2, 3}, r.max_new_tokens = 0; }),
            "no error");
}

TEST(CheckRequestTest, SaysWhyARequestCannotRun) {
  using R = Request&;
  EXPECT_EQ(RequestError([](R r) { r.prompt = {}; }),
            "request 7: the prompt is empty; give at least one token");
  EXPECT_EQ(RequestError([](R r) { r.max_new_tokens = 98; }),
            "request 7: the prompt has 3 tokens and max_new_tokens is 98; together they may be at "
            "most 100 (max_model_len)");
  EXPECT_NE(RequestError([](R r) { r.max_new_tokens = std::numeric_limits<int>::max(); }),
            "no error");
  EXPECT_NE(RequestError([](R r) { r.max_new_tokens = -1; }).find("must not be negative"),
            std::string::npos);
  EXPECT_EQ(RequestError([](R r) { r.width = 0; }),
            "request 7: width is 0; it must be 1 to 4 (max_rows)");
  EXPECT_EQ(RequestError([](R r) { r.width = 5; }),
            "request 7: width is 5; it must be 1 to 4 (max_rows)");
  EXPECT_EQ(RequestError([](R r) { r.targets = {1, 2, 3, 4}; }),
            "request 7: 4 targets for a prompt of 3 tokens; give at most one target a token");
  EXPECT_NE(RequestError([](R r) { r.targets = {1}; }).find("max_new_tokens 0 (is 4)"),
            std::string::npos);
  EXPECT_EQ(RequestError([](R r) { r.row_params = {}; }),
            "request 7: row_params has 0 words; this scheduler takes 1");
  EXPECT_NE(RequestError([](R r) { r.deadline = std::nan(""); }).find("not a number"),
            std::string::npos);
  EXPECT_EQ(RequestError([](R r) { r.max_new_tokens = 62; }),
            "request 7: it may need 17 pages of 4 tokens (prompt 3, max_new_tokens 62, width 1) "
            "and there are 16 in all (num_pages)");
}

}  // namespace
}  // namespace sax
