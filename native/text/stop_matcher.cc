#include "native/text/stop_matcher.h"

#include <queue>
#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)), nodes_(1) {
  for (size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty()) {
      throw std::invalid_argument(StrCat("stop string ", i + 1, " of ", stops_.size(),
                                         " is empty; it must have a character at least"));
    }
    int32_t node = 0;
    for (const char byte : stops_[i]) {
      const auto [child, added] =
          nodes_[node].children.try_emplace(byte, static_cast<int32_t>(nodes_.size()));
      const int32_t next = child->second;
      if (added) {
        const size_t depth = nodes_[node].depth + 1;
        nodes_.emplace_back().depth = depth;
      }
      node = next;
    }
    nodes_[node].stop = static_cast<int32_t>(i);
  }
  AddSuffixes();
}

void StopMatcher::AddSuffixes() {
  // By depth, so that the suffix of a node, which is less deep, is finished before it.
  std::queue<int32_t> waiting({0});
  while (!waiting.empty()) {
    const int32_t node = waiting.front();
    waiting.pop();
    for (const auto& [byte, child] : nodes_[node].children) {
      nodes_[child].suffix = node == 0 ? 0 : Next(nodes_[node].suffix, byte);
      if (nodes_[child].stop < 0) nodes_[child].stop = nodes_[nodes_[child].suffix].stop;
      waiting.push(child);
    }
  }
}

int32_t StopMatcher::Next(int32_t node, char byte) const {
  while (true) {
    const auto child = nodes_[node].children.find(byte);
    if (child != nodes_[node].children.end()) return child->second;
    if (node == 0) return 0;
    node = nodes_[node].suffix;
  }
}

std::string StopMatcher::Feed(std::string_view text) {
  if (matched_) return {};
  std::string all = std::exchange(held_, {});
  const size_t start = all.size();
  all += text;
  for (size_t i = start; i < all.size(); ++i) {
    node_ = Next(node_, all[i]);
    const int32_t stop = nodes_[node_].stop;
    if (stop >= 0) {
      matched_ = stops_[stop];
      all.resize(i + 1 - matched_->size());
      return all;
    }
  }
  held_ = all.substr(all.size() - nodes_[node_].depth);
  all.resize(all.size() - held_.size());
  return all;
}

std::string StopMatcher::Finish() {
  node_ = 0;
  return std::exchange(held_, {});
}

}  // namespace sax
