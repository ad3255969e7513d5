#include "native/sched/request_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {

RequestQueue::RequestQueue(int capacity, int64_t max_tokens)
    : capacity_(std::max(capacity, 0)), max_tokens_(max_tokens) {
  if (capacity < 1) {
    throw std::invalid_argument(
        StrCat("queue_capacity is ", capacity, "; at least 1 request must be able to wait"));
  }
  if (max_tokens < 1) {
    throw std::invalid_argument(
        StrCat("max_queued_tokens is ", max_tokens, "; at least 1 token must be able to wait"));
  }
}

void RequestQueue::CheckRoom(const Request& request) const {
  if (waiting_.size() >= capacity_) {
    throw QueueFull(StrCat(waiting_.size(),
                           " requests are waiting, which is the queue's capacity; try again "
                           "later or raise queue_capacity"));
  }
  const int64_t prompt = request.prompt.size();
  if (!waiting_.empty() && prompt > max_tokens_ - tokens()) {
    throw QueueFull(StrCat("requests with ", tokens(), " prompt tokens are waiting, and ", prompt,
                           " more would pass the ", max_tokens_,
                           " that may wait; try again later or raise max_queued_tokens"));
  }
}

void RequestQueue::Push(Request request) {
  {
    std::lock_guard lock(mutex_);
    const int64_t id = request.id;
    if (known_.contains(id)) {
      throw std::invalid_argument(
          StrCat("request ", id, " is already waiting or running; ids must be unique"));
    }
    CheckRoom(request);
    first_deadline_ = std::min(first_deadline_, request.deadline);
    tokens_.fetch_add(request.prompt.size(), std::memory_order_relaxed);
    request.arrival = arrivals_++;
    const auto place = std::pair(-int64_t{request.priority}, request.arrival);
    known_[id].waiting = waiting_.emplace(place, std::move(request)).first;
    size_.store(static_cast<int>(waiting_.size()), std::memory_order_relaxed);
  }
  work_.notify_all();
}

void RequestQueue::Cancel(int64_t id) {
  {
    std::lock_guard lock(mutex_);
    const auto known = known_.find(id);
    if (known == known_.end() || known->second.cancelled) return;
    known->second.cancelled = true;
    cancelled_.push_back(id);
  }
  work_.notify_all();
}

bool RequestQueue::Wait(double timeout) {
  constexpr double kLongest = 1e8;  // three years; keeps infinity inside the clock's range
  const std::chrono::duration<double> limit(std::clamp(timeout, 0.0, kLongest));
  std::unique_lock lock(mutex_);
  const bool work = work_.wait_for(
      lock, limit, [this] { return woken_ || busy_ || !waiting_.empty() || !cancelled_.empty(); });
  woken_ = false;
  return work;
}

void RequestQueue::Wake() {
  {
    std::lock_guard lock(mutex_);
    woken_ = true;
  }
  work_.notify_all();
}

Request RequestQueue::Take(Waiting::iterator waiting) {
  Request request = std::move(waiting->second);
  waiting_.erase(waiting);
  size_.store(static_cast<int>(waiting_.size()), std::memory_order_relaxed);
  tokens_.fetch_sub(request.prompt.size(), std::memory_order_relaxed);
  return request;
}

void RequestQueue::DropDead(double now, std::vector<Dropped>* dropped,
                            std::vector<int64_t>* cancelled) {
  std::lock_guard lock(mutex_);
  for (int64_t id : cancelled_) {
    if (const auto waiting = known_.at(id).waiting) {
      dropped->push_back({id, DropReason::kCancelled});
      Take(*waiting);
      known_.erase(id);
    } else {
      cancelled->push_back(id);
    }
  }
  cancelled_.clear();
  if (now < first_deadline_) return;
  first_deadline_ = std::numeric_limits<double>::infinity();
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const auto next = std::next(waiting);
    const int64_t id = waiting->second.id;
    const double deadline = waiting->second.deadline;
    if (deadline <= now) {
      dropped->push_back({id, DropReason::kExpired});
      Take(waiting);
      known_.erase(id);
    } else {
      first_deadline_ = std::min(first_deadline_, deadline);
    }
    waiting = next;
  }
}

const Request* RequestQueue::Front() const {
  std::lock_guard lock(mutex_);
  return waiting_.empty() ? nullptr : &waiting_.begin()->second;
}

Request RequestQueue::Pop(int64_t id) {
  std::lock_guard lock(mutex_);
  Known& known = known_.at(id);
  const auto waiting = known.waiting.value();
  known.waiting.reset();
  return Take(waiting);
}

void RequestQueue::Forget(int64_t id) {
  std::lock_guard lock(mutex_);
  const auto known = known_.find(id);
  if (known == known_.end()) return;
  if (known->second.cancelled) std::erase(cancelled_, id);
  if (known->second.waiting) Take(*known->second.waiting);
  known_.erase(known);
}

void RequestQueue::SetBusy(bool busy) {
  {
    std::lock_guard lock(mutex_);
    busy_ = busy;
  }
  if (busy) work_.notify_all();
}

}  // namespace sax
