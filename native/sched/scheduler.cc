#include "native/sched/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {
namespace {

std::vector<PackedLayout> Layouts(const SchedulerConfig& config) {
  const PlanDims dims = {
      .max_rows = config.max_rows,
      .pages_per_row = (config.max_model_len + config.page_size - 1) / config.page_size,
      .row_params = config.row_params,
      .num_pages = config.num_pages,
      .page_size = config.page_size,
  };
  std::vector<PackedLayout> layouts;
  for (int bucket : config.buckets) layouts.emplace_back(dims, bucket);
  return layouts;
}

}  // namespace

Scheduler::Scheduler(SchedulerConfig config)
    : config_(CheckedConfig(std::move(config))),
      layouts_(Layouts(config_)),
      mix_(config_.buckets),
      queue_(config_.queue_capacity, config_.max_queued_tokens),
      pool_(config_.num_pages, config_.page_size),
      reservation_(config_.max_rows, config_.num_pages) {
  if (config_.prefix_cache) index_.emplace(&pool_);
  running_.reserve(config_.max_rows);
  rows_.reserve(config_.max_rows);
  Publish();
}

void Scheduler::Submit(Request request) {
  CheckRequest(config_, request);
  queue_.Push(std::move(request));
}

std::unique_ptr<StepPlan> Scheduler::Plan(double now) {
  DropDead(now);
  if (index_) {
    for (const auto& group : running_) group->EnterPages(&*index_);
  }
  for (const auto& group : running_) {
    StartRestore(group.get());
    group->Age();
  }
  rows_.clear();
  room_wanted_ = false;
  Budget all{config_.buckets.back(), config_.max_rows};
  Budget left = all;
  ChooseDecodeRows(&left);
  const int beyond = all.tokens - mix_.Tokens(static_cast<int>(rows_.size()));
  all.tokens -= beyond;
  left.tokens -= beyond;
  ChoosePrefillRows(&left);
  std::unique_ptr<StepPlan> plan;
  if (!rows_.empty()) {
    PlanWriter writer(SmallestLayout({all.tokens - left.tokens, all.entries - left.entries}));
    for (const Row& row : rows_) writer.Add(row);
    plan = writer.Finish();
    const Group* counted = nullptr;
    for (const Row& row : rows_) {
      if (row.group != counted) CountUnfilled(row.group);
      counted = row.group;
    }
  }
  WatchProgress(plan != nullptr);
  Publish();
  return plan;
}

void Scheduler::DropDead(double now) {
  cancelled_.clear();
  queue_.DropDead(now, &dropped_, &cancelled_);
  for (int64_t id : cancelled_) {
    dropped_.push_back({id, DropReason::kCancelled});
    Release(id);
  }
  for (size_t i = 0; i < running_.size();) {
    const Request& request = running_[i]->request();
    if (request.deadline > now) {
      ++i;
      continue;
    }
    dropped_.push_back({request.id, DropReason::kExpired});
    Release(request.id);  // the next one moves to place i
  }
  for (auto next = suspended_.begin(); next != suspended_.end();) {
    const Request& request = (next++)->second->request();
    if (request.deadline > now) continue;
    dropped_.push_back({request.id, DropReason::kExpired});
    Release(request.id);
  }
}

// Fits always: the widths of running requests add up to max_rows at most.
void Scheduler::ChooseDecodeRows(Budget* left) {
  for (const auto& group : running_) {
    if (group->phase() != Group::Phase::kDecode) continue;
    const int sequences = static_cast<int>(group->sequences().size());
    for (int seq = 0; seq < sequences; ++seq) rows_.push_back({group.get(), seq, 1, 1});
    left->tokens -= sequences;
    left->entries -= sequences;
  }
}

void Scheduler::ChoosePrefillRows(Budget* left) {
  for (const auto& group : running_) {
    if (left->tokens == 0) break;
    ChoosePieces(group.get(), left);
  }
  StartRequests(left);
}

void Scheduler::StartRequests(Budget* left) {
  for (Head head = NextHead();; head = NextHead()) {
    head_waits_ = head.request != nullptr;
    if (!head_waits_) return;
    const Request& request = *head.request;
    const bool preempts = std::ranges::any_of(
        running_, [&](const auto& group) { return MayPreempt(*group, request); });
    const bool awaited = std::ranges::any_of(running_, [&](const auto& group) {
      return Yields(*group, request) && !MayPreempt(*group, request);
    });
    if (left->tokens == 0 && !preempts) {
      room_wanted_ = awaited;
      return;
    }
    if (!FindPrefix(head)) return;
    // Pages of generated tokens are not held for good; see Group::Resume.
    const size_t held = std::min(prefix_.size(), request.prompt.size() / config_.page_size);
    const Claim claim = {request.width, WorstCasePages(request, config_.page_size),
                         std::span(prefix_).first(held)};
    if (reservation_.Fits(claim)) {
      if (left->tokens == 0) return;
    } else if (!MakeRoom(request, claim, left)) {
      room_wanted_ = awaited;
      return;
    }
    ChoosePieces(Start(head), left);
  }
}

void Scheduler::ChoosePieces(Group* group, Budget* left) {
  if (group->phase() == Group::Phase::kRestore) ChooseRestoreRows(group, left);
  if (group->phase() != Group::Phase::kPrefill) return;
  const Chunk chunk = group->NextChunk(left->tokens, left->entries);
  if (chunk.tokens == 0) return;
  rows_.push_back({group, 0, chunk.tokens, chunk.entries});
  left->tokens -= chunk.tokens;
  left->entries -= chunk.entries;
}

// Starts the sequences that need not wait for others of their group. They may have nothing left to
// do: then all decode in this step.
void Scheduler::StartRestore(Group* group) {
  if (group->phase() != Group::Phase::kRestore) return;
  const int sequences = static_cast<int>(group->sequences().size());
  for (int seq = 1; seq < sequences; ++seq) {
    if (!group->StartRestore(seq, index_ ? &*index_ : nullptr)) return;
  }
  group->Restored();
}

// Sequence after sequence. At least one gets tokens, if any are left: those before the first that
// is not complete are, and so it need not wait for them.
void Scheduler::ChooseRestoreRows(Group* group, Budget* left) {
  const int sequences = static_cast<int>(group->sequences().size());
  for (int seq = 0; seq < sequences && left->tokens > 0; ++seq) {
    if (!group->StartRestore(seq, index_ ? &*index_ : nullptr)) return;
    const int tokens = std::min(group->missing(seq), left->tokens);
    if (tokens == 0) continue;
    rows_.push_back({group, seq, tokens, 0});
    left->tokens -= tokens;
  }
}

Scheduler::Head Scheduler::NextHead() const {
  const Request* waiting = queue_.Front();
  if (suspended_.empty()) return {waiting, nullptr};
  Group* first = suspended_.begin()->second.get();
  if (waiting != nullptr && Precedes(*waiting, first->request())) return {waiting, nullptr};
  return {&first->request(), first};
}

// Puts into prefix_ the pages that hold the beginning of a prompt, up to the first token whose
// logits are wanted. False: a running request is about to compute more of it, and the head of the
// queue, with all behind it, waits for that; many suffixes of one prefix compute the prefix once.
//
// This ends, and soon. The head waits only for a group in its prefill, or one that is restored,
// whose prompt begins with more full pages of the head's than the index has. While it waits nobody
// is started and nobody makes way for it, so there are ever fewer such groups: each either goes, or
// comes to the end of those pages. It does come there: the first of these groups always gets
// tokens, as the decode rows before it leave at least its width of max_rows in tokens and entries,
// and so each becomes the first. At the Plan() after that its pages are in the index, stay there
// while it uses them, and are what the head finds. Groups that await their tokens, which others may
// be slow to bring, are not waited for. And little is lost: tokens of the step's budget are left
// only when the prefills before the head end in this step or emit all entries there are, or when
// sequences to restore wait for the pages of another.
bool Scheduler::FindPrefix(const Head& head) {
  prefix_.clear();
  const Request& request = *head.request;
  if (!index_ || !request.cache_read) return true;
  std::span<const int32_t> tokens = request.prompt;
  int most = FirstEntry(request) / config_.page_size;
  if (head.suspended != nullptr) {
    tokens = head.suspended->Beginning();
    most = head.suspended->most_shared_pages();
  }
  index_->Match(tokens, request.cache_salt, most, &prefix_);
  const int found = static_cast<int>(prefix_.size());
  if (found == most) return true;
  return std::ranges::none_of(running_, [&](const auto& group) {
    if (group->phase() != Group::Phase::kPrefill && group->phase() != Group::Phase::kRestore) {
      return false;
    }
    const Request& other = group->request();
    if (other.cache_salt != request.cache_salt) return false;
    const size_t wanted = static_cast<size_t>(found + 1) * config_.page_size;
    return other.prompt.size() >= wanted &&
           std::equal(tokens.begin(), tokens.begin() + wanted, other.prompt.begin());
  });
}

// On the pages that FindPrefix() found.
Group* Scheduler::Start(const Head& head) {
  if (head.suspended != nullptr) {
    running_.push_back(std::move(suspended_.extract(suspended_.begin()).mapped()));
    running_.back()->Resume(prefix_);
  } else {
    running_.push_back(std::make_unique<Group>(queue_.Pop(head.request->id), &pool_, prefix_));
    const Group& group = *running_.back();
    if (index_ && group.request().cache_read) {
      queried_.fetch_add(group.request().prompt.size(), std::memory_order_relaxed);
      hits_.fetch_add(group.prefilled(), std::memory_order_relaxed);
    }
  }
  Group* group = running_.back().get();
  by_id_[group->request().id] = group;
  reservation_.Add(group->claim());
  return group;
}

const PackedLayout& Scheduler::SmallestLayout(const Budget& used) const {
  const int rows = std::max(static_cast<int>(rows_.size()), used.entries);
  return *std::ranges::find_if(layouts_, [&](const PackedLayout& layout) {
    return layout.bucket() >= used.tokens && layout.rows() >= rows;
  });
}

const PackedLayout& Scheduler::Layout(int bucket) const {
  const auto layout = std::ranges::find(layouts_, bucket, &PackedLayout::bucket);
  if (layout == layouts_.end()) {
    throw std::invalid_argument(StrCat("bucket ", bucket, " is none of the ", layouts_.size(),
                                       " buckets of this scheduler"));
  }
  return *layout;
}

std::vector<Dropped> Scheduler::TakeDropped() { return std::exchange(dropped_, {}); }

Group* Scheduler::Running(int64_t id) {
  const auto group = by_id_.find(id);
  if (group == by_id_.end()) {
    throw std::invalid_argument(
        StrCat("request ", id, " does not run: it is unknown, waiting, finished or dropped"));
  }
  return group->second;
}

void Scheduler::Advance(int64_t id, std::span<const int32_t> parents,
                        std::span<const int32_t> tokens, std::span<const int32_t> samples) {
  Group* group = Running(id);
  group->Advance(parents, tokens, samples);
  CountUnfilled(group);
  Publish();
}

bool Scheduler::RunAhead(std::span<const int64_t> ids) {
  if (room_wanted_) return false;
  const auto group_of = [this](int64_t id) -> Group* {
    const auto group = by_id_.find(id);
    return group == by_id_.end() || group->second->scored() ? nullptr : group->second;
  };
  for (const int64_t id : ids) {
    const Group* group = group_of(id);
    if (group != nullptr && (group->unknown() || !group->fresh())) return false;
  }
  for (const int64_t id : ids) {
    Group* group = group_of(id);
    if (group == nullptr || !group->MayRunAhead()) continue;
    group->RunAhead();
    CountUnfilled(group);
  }
  Publish();
  return true;
}

void Scheduler::Resolve(int64_t id, std::span<const int32_t> samples,
                        std::span<const int32_t> tokens) {
  Group* group = Running(id);
  group->Resolve(samples, tokens);
  CountUnfilled(group);
  Publish();
}

void Scheduler::Finish(int64_t id) {
  Release(id);
  Publish();
}

void Scheduler::Release(int64_t id) {
  queue_.Forget(id);
  if (const auto found = by_id_.find(id); found != by_id_.end()) {
    Group* group = found->second;
    if (index_) group->EnterPages(&*index_);
    reservation_.Remove(group->claim());
    TakeRunning(group);
    return;
  }
  std::erase_if(suspended_, [id](const auto& place) { return place.second->request().id == id; });
}

// Its claim is the caller's to remove.
std::unique_ptr<Group> Scheduler::TakeRunning(Group* group) {
  unfilled_.fetch_sub(group->unfilled(), std::memory_order_relaxed);
  by_id_.erase(group->request().id);
  const auto place = std::ranges::find(running_, group, &std::unique_ptr<Group>::get);
  std::unique_ptr<Group> taken = std::move(*place);
  running_.erase(place);
  return taken;
}

void Scheduler::CountUnfilled(Group* group) {
  const int before = group->unfilled();
  group->CountUnfilled();
  unfilled_.fetch_add(group->unfilled() - before, std::memory_order_relaxed);
}

void Scheduler::Publish() {
  num_running_.store(static_cast<int>(running_.size()), std::memory_order_relaxed);
  num_suspended_.store(static_cast<int>(suspended_.size()), std::memory_order_relaxed);
  const bool busy = !running_.empty() || !suspended_.empty();
  if (busy != busy_) queue_.SetBusy(busy_ = busy);
  pages_.store({pool_.free_pages(), pool_.cached_pages()}, std::memory_order_relaxed);
}

}  // namespace sax
