// The part of Scheduler that takes room away again: from running requests, for one of a higher
// priority, and from one that keeps all others waiting.
#include <algorithm>
#include <memory>
#include <utility>

#include "native/sched/scheduler.h"

namespace sax {
namespace {

// Plans without a token, though there was work, before a request is given up.
constexpr int kMostEmptyPlans = 3;

}  // namespace

bool Scheduler::Yields(const Group& group, const Request& head) const {
  return group.request().priority < head.priority && group.suspensions() < config_.max_preemptions;
}

// One that awaits tokens has entries in a step that runs; their results must find it.
bool Scheduler::MayPreempt(const Group& group, const Request& head) const {
  return Yields(group, head) && group.phase() != Group::Phase::kAwaiting && !group.unknown();
}

// Suspends requests of lower priority until `claim` fits, the lowest and of these the latest first,
// and none that is not needed. If all of them together are not enough, none is.
//
// Everybody makes progress: a request is suspended max_preemptions times at most, and each time for
// one that precedes it; that one is never suspended for its victims.
bool Scheduler::MakeRoom(const Request& head, const Claim& claim, Budget* left) {
  victims_.clear();
  for (const auto& group : running_) {
    if (MayPreempt(*group, head)) victims_.push_back(group.get());
  }
  std::ranges::sort(victims_, [](const Group* a, const Group* b) {
    return Precedes(b->request(), a->request());
  });
  size_t taken = 0;
  for (; taken < victims_.size() && !reservation_.Fits(claim); ++taken) {
    reservation_.Remove(victims_[taken]->claim());
  }
  const bool enough = reservation_.Fits(claim);
  victims_.resize(taken);
  // The last one is needed; others may not be, now that it is there.
  for (size_t i = taken; i-- > 0;) {
    reservation_.Add(victims_[i]->claim());
    if (enough && !reservation_.Fits(claim)) {
      reservation_.Remove(victims_[i]->claim());
    } else {
      victims_[i] = nullptr;
    }
  }
  for (Group* victim : victims_) {
    if (victim != nullptr) Preempt(victim, left);
  }
  return enough;
}

// Its full pages were entered at the beginning of Plan().
void Scheduler::Preempt(Group* group, Budget* left) {
  for (const Row& row : rows_) {
    if (row.group != group) continue;
    left->tokens += row.tokens;
    left->entries += row.entries;
  }
  std::erase_if(rows_, [group](const Row& row) { return row.group == group; });
  std::unique_ptr<Group> taken = TakeRunning(group);
  taken->Suspend();
  const Request& request = taken->request();
  suspended_.emplace(std::pair(-int64_t{request.priority}, request.arrival), std::move(taken));
  preemptions_.fetch_add(1, std::memory_order_relaxed);
}

// Where something waits or runs and nobody awaits tokens, a plan has at least one token: the decode
// rows, or else a piece of the first prompt (see FindPrefix), or else the head of the queue, which
// fits into an empty book. If that is ever untrue, the first of those who could not go on is given
// up after some plans, so that the others can.
void Scheduler::WatchProgress(bool planned) {
  const bool awaits = std::ranges::any_of(
      running_, [](const auto& group) { return group->phase() == Group::Phase::kAwaiting; });
  if (planned || awaits || (running_.empty() && !head_waits_)) {
    empty_plans_ = 0;
    return;
  }
  if (++empty_plans_ < kMostEmptyPlans) return;
  empty_plans_ = 0;
  const Head head = NextHead();
  if (running_.empty() && head.request == nullptr) return;
  const int64_t id = running_.empty() ? head.request->id : running_.front()->request().id;
  dropped_.push_back({id, DropReason::kStuck});
  stuck_.fetch_add(1, std::memory_order_relaxed);
  Release(id);
}

}  // namespace sax
