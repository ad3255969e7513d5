#include "native/sched/group.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {
namespace {

constexpr int32_t kUnknown = -1;

}  // namespace

int64_t WorstCasePages(const Request& request, int page_size) {
  const int64_t prompt = request.prompt.size();
  const int64_t shared = prompt / page_size;
  const int64_t all = (prompt + request.max_new_tokens + page_size - 1) / page_size;
  return shared + request.width * (all - shared);
}

int FirstEntry(const Request& request) {
  return static_cast<int>(request.prompt.size() - std::max<size_t>(request.targets.size(), 1));
}

Group::Group(Request request, PagePool* pool, std::span<const int32_t> prefix)
    : request_(std::move(request)),
      page_size_(pool->page_size()),
      pool_(pool),
      worst_case_(WorstCasePages(request_, page_size_)),
      held_(static_cast<int>(prefix.size())) {
  const int longest = static_cast<int>(request_.prompt.size()) + request_.max_new_tokens;
  sequences_.reserve(request_.width);
  next_.reserve(request_.width);
  uses_.reserve(request_.width);
  sequences_.push_back({PageTable(pool, (longest + page_size_ - 1) / page_size_)});
  sequences_[0].table.Share(prefix);
  sequences_[0].tokens.reserve(request_.max_new_tokens);
  sequences_[0].entered = static_cast<int>(prefix.size());
  page_.reserve(page_size_);
}

Chunk Group::NextChunk(int tokens, int entries) const {
  const int begin = prefilled();
  const int prompt = static_cast<int>(request_.prompt.size());
  int end = std::min(prompt, begin + tokens);
  if (scored()) {
    const int first = std::max({begin, first_entry(), scored_tokens_});
    end = std::min(end, first + entries);
    return {end - begin, std::max(0, end - first)};
  }
  const int wanted = end < prompt ? 0 : request_.fork_at_start ? request_.width : 1;
  return wanted > entries ? Chunk{} : Chunk{end - begin, wanted};
}

std::span<const int32_t> Group::PageTokens(const Sequence& sequence, int index) {
  const size_t size = page_size_, begin = index * size, prompt = request_.prompt.size();
  if (begin + size <= prompt) return std::span(request_.prompt).subspan(begin, size);
  if (begin >= prompt) return std::span(sequence.tokens).subspan(begin - prompt, size);
  page_.assign(request_.prompt.begin() + begin, request_.prompt.end());
  page_.insert(page_.end(), sequence.tokens.begin(),
               sequence.tokens.begin() + (begin + size - prompt));
  return page_;
}

void Group::EnterPages(PrefixIndex* index) {
  for (Sequence& sequence : sequences_) {
    int full = sequence.table.full_pages();
    if (unknown_) full = std::min(full, WithoutPending(sequence) / page_size_);
    for (; sequence.entered < full; ++sequence.entered) {
      const int i = sequence.entered;
      const auto pages = sequence.table.pages();
      const int32_t parent = i == 0 ? PrefixIndex::kNoParent : pages[i - 1];
      const int32_t page =
          index->Enter(parent, PageTokens(sequence, i), request_.cache_salt, pages[i]);
      if (page != pages[i]) sequence.table.Replace(i, page);
    }
  }
}

std::span<const int32_t> Group::Beginning() {
  if (phase_ != Phase::kRestore) return request_.prompt;
  const Sequence& first = sequences_[0];
  history_.assign(request_.prompt.begin(), request_.prompt.end());
  history_.insert(history_.end(), first.tokens.begin(), first.tokens.end() - 1);
  return history_;
}

int Group::most_shared_pages() const {
  const int last = phase_ == Phase::kRestore ? WithoutPending(sequences_[0]) - 1
                                             : std::max(first_entry(), scored_tokens_);
  return last / page_size_;
}

int Group::CommonTokens(const Sequence& a, const Sequence& b) const {
  const auto parted = std::ranges::mismatch(a.tokens, b.tokens).in1;
  return static_cast<int>(request_.prompt.size() + (parted - a.tokens.begin()));
}

bool Group::StartRestore(int seq, const PrefixIndex* index) {
  Sequence& sequence = sequences_[seq];
  if (seq == 0 || sequence.table.length() > 0) return true;
  const int most = WithoutPending(sequence) / page_size_;
  int shared = -1;
  const Sequence* like = nullptr;
  for (const Sequence& earlier : std::span(sequences_).first(seq)) {
    const int common = std::min(CommonTokens(sequence, earlier), WithoutPending(earlier));
    const int pages = std::min(common / page_size_, most);
    if (pages <= shared) continue;
    shared = pages;
    like = &earlier;
  }
  if (like->table.full_pages() < shared) return false;
  std::span<const int32_t> pages = like->table.pages().first(shared);
  if (index != nullptr && request_.cache_read && shared < most) {
    history_.assign(request_.prompt.begin(), request_.prompt.end());
    history_.insert(history_.end(), sequence.tokens.begin(), sequence.tokens.end());
    index->Match(history_, request_.cache_salt, most, &found_);
    // What is shared is in the index, so more begins with the same pages.
    if (found_.size() > pages.size()) pages = found_;
  }
  sequence.table.Share(pages);
  sequence.entered = static_cast<int>(pages.size());
  return true;
}

void Group::Restored() {
  for (size_t seq = 0; seq < sequences_.size(); ++seq) {
    if (missing(static_cast<int>(seq)) > 0) return;
  }
  phase_ = Phase::kDecode;
}

void Group::Suspend() {
  if (phase_ == Phase::kAwaiting || unknown_) {
    throw std::logic_error(
        StrCat("request ", request_.id, " awaits tokens and cannot be suspended"));
  }
  if (phase_ == Phase::kPrefill) scored_tokens_ = std::max(scored_tokens_, prefilled());
  if (phase_ == Phase::kDecode) phase_ = Phase::kRestore;
  for (Sequence& sequence : sequences_) {
    sequence.table.Trim(0);
    sequence.entered = 0;
  }
  held_ = 0;
  unfilled_ = 0;
  ++suspensions_;
}

void Group::Resume(std::span<const int32_t> prefix) {
  sequences_[0].table.Share(prefix);
  sequences_[0].entered = static_cast<int>(prefix.size());
  // Pages of generated tokens may end with their sequence: they are not held for good.
  held_ = static_cast<int>(std::min(prefix.size(), request_.prompt.size() / page_size_));
}

void Group::CountUnfilled() {
  unfilled_ = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int filled = sequences_[i].table.length() % page_size_;
    if (filled == 0) continue;
    const int32_t page = sequences_[i].table.pages().back();
    const bool counted =
        pool_->RefCount(page) > 1 &&
        std::ranges::any_of(std::span(sequences_).first(i), [page](const Sequence& earlier) {
          return earlier.table.length() > 0 && earlier.table.pages().back() == page;
        });
    if (!counted) unfilled_ += page_size_ - filled;
  }
}

void Group::CheckAdvance(std::span<const int32_t> parents, std::span<const int32_t> tokens,
                         std::span<const int32_t> samples) const {
  const int64_t id = request_.id;
  if (phase_ != Phase::kAwaiting || scored() || unknown_) {
    throw std::invalid_argument(StrCat("request ", id, " awaits no tokens: ",
                                       scored()   ? "it is scored; finish it"
                                       : unknown_ ? "it has run ahead; resolve it"
                                                  : "its next entries were not planned yet"));
  }
  if (parents.size() != tokens.size()) {
    throw std::invalid_argument(StrCat("request ", id, " got ", parents.size(), " parents and ",
                                       tokens.size(), " tokens; each child needs both"));
  }
  if (!samples.empty() && samples.size() != parents.size()) {
    throw std::invalid_argument(StrCat("request ", id, " got ", parents.size(), " parents and ",
                                       samples.size(), " samples; each child needs one, or none"));
  }
  if (parents.empty() || parents.size() > static_cast<size_t>(request_.width)) {
    throw std::invalid_argument(StrCat("request ", id, " cannot go on with ", parents.size(),
                                       " sequences; its width allows 1 to ", request_.width));
  }
  for (int32_t parent : parents) {
    if (parent < 0 || parent >= static_cast<int32_t>(sequences_.size())) {
      throw std::invalid_argument(StrCat("request ", id, " has no sequence ", parent,
                                         " to continue; there are ", sequences_.size()));
    }
  }
  if (generated_ >= request_.max_new_tokens) {
    throw std::invalid_argument(StrCat("request ", id, " has all ", request_.max_new_tokens,
                                       " new tokens (max_new_tokens); finish it"));
  }
}

void Group::Advance(std::span<const int32_t> parents, std::span<const int32_t> tokens,
                    std::span<const int32_t> samples) {
  CheckAdvance(parents, tokens, samples);
  uses_.assign(sequences_.size(), 0);
  for (int32_t parent : parents) ++uses_[parent];
  for (size_t child = 0; child < parents.size(); ++child) {
    Sequence& parent = sequences_[parents[child]];
    // The last child takes the parent's own table, so one that does not fork costs nothing.
    if (--uses_[parents[child]] == 0) {
      next_.push_back(std::move(parent));
    } else {
      next_.push_back({.table = parent.table.Fork(), .entered = parent.entered});
      next_.back().tokens.reserve(request_.max_new_tokens);
      next_.back().tokens = parent.tokens;
    }
    next_.back().sample = samples.empty() ? static_cast<int32_t>(child) : samples[child];
    next_.back().pending = tokens[child];
    next_.back().tokens.push_back(tokens[child]);
  }
  sequences_.swap(next_);
  next_.clear();  // releases what the ended sequences held
  ++generated_;
  phase_ = Phase::kDecode;
}

void Group::RunAhead() {
  const int children = generated_ > 0           ? static_cast<int>(sequences_.size())
                       : request_.fork_at_start ? request_.width
                                                : 1;
  ahead_parents_.resize(children);
  ahead_samples_.resize(children);
  ahead_tokens_.assign(children, kUnknown);
  for (int child = 0; child < children; ++child) {
    ahead_parents_[child] = generated_ > 0 ? child : 0;
    ahead_samples_[child] = generated_ > 0 ? sequences_[child].sample : child;
  }
  const int entry = sequences_[0].entry;
  Advance(ahead_parents_, ahead_tokens_, ahead_samples_);
  for (int child = 0; child < children; ++child) {
    Sequence& sequence = sequences_[child];
    sequence.source = generated_ > 1 ? sequence.entry : entry + child;
  }
  unknown_ = true;
}

void Group::Resolve(std::span<const int32_t> samples, std::span<const int32_t> tokens) {
  if (!unknown_) {
    throw std::invalid_argument(
        StrCat("request ", request_.id, " has not run ahead; nothing is to be resolved"));
  }
  if (samples.empty() || samples.size() != tokens.size()) {
    throw std::invalid_argument(StrCat("request ", request_.id, " is resolved with ",
                                       samples.size(), " samples and ", tokens.size(),
                                       " tokens; each sample that goes on needs one"));
  }
  size_t known = 0;
  for (const Sequence& sequence : sequences_) {
    if (known < samples.size() && sequence.sample == samples[known]) ++known;
  }
  if (known < samples.size()) {
    throw std::invalid_argument(StrCat("request ", request_.id, " has no sample ", samples[known],
                                       " that goes on, in this order"));
  }
  known = 0;
  for (Sequence& sequence : sequences_) {
    if (known == samples.size() || sequence.sample != samples[known]) continue;
    sequence.tokens.back() = sequence.pending = tokens[known++];
    sequence.source = -1;
    next_.push_back(std::move(sequence));
  }
  sequences_.swap(next_);
  next_.clear();
  unknown_ = false;
}

}  // namespace sax
