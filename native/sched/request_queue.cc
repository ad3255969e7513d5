#include "native/sched/request_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {

RequestQueue::RequestQueue(int capacity) : capacity_(std::max(capacity, 0)) {
  if (capacity < 1) {
    throw std::invalid_argument(
        StrCat("queue_capacity is ", capacity, "; at least 1 request must be able to wait"));
  }
}

void RequestQueue::Push(Request request) {
  {
    std::lock_guard lock(mutex_);
    if (known_.contains(request.id)) {
      throw std::invalid_argument(
          StrCat("request ", request.id, " is already waiting or running; ids must be unique"));
    }
    if (waiting_.size() >= capacity_) {
      throw QueueFull(StrCat(waiting_.size(),
                             " requests are waiting, which is the queue's capacity; try again "
                             "later or raise queue_capacity"));
    }
    const int64_t id = request.id;
    first_deadline_ = std::min(first_deadline_, request.deadline);
    waiting_.push_back(std::move(request));
    known_[id].waiting = std::prev(waiting_.end());
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

void RequestQueue::Erase(List::iterator request) {
  known_.erase(request->id);
  waiting_.erase(request);
  size_.store(static_cast<int>(waiting_.size()), std::memory_order_relaxed);
}

void RequestQueue::DropDead(double now, std::vector<Dropped>* dropped,
                            std::vector<int64_t>* cancelled) {
  std::lock_guard lock(mutex_);
  for (int64_t id : cancelled_) {
    if (const auto waiting = known_.at(id).waiting) {
      dropped->push_back({id, DropReason::kCancelled});
      Erase(*waiting);
    } else {
      cancelled->push_back(id);
    }
  }
  cancelled_.clear();
  if (now < first_deadline_) return;
  first_deadline_ = std::numeric_limits<double>::infinity();
  for (auto request = waiting_.begin(); request != waiting_.end();) {
    const auto next = std::next(request);
    if (request->deadline <= now) {
      dropped->push_back({request->id, DropReason::kExpired});
      Erase(request);
    } else {
      first_deadline_ = std::min(first_deadline_, request->deadline);
    }
    request = next;
  }
}

const Request* RequestQueue::Front() const {
  std::lock_guard lock(mutex_);
  return waiting_.empty() ? nullptr : &waiting_.front();
}

Request RequestQueue::Pop() {
  std::lock_guard lock(mutex_);
  Request request = std::move(waiting_.front());
  waiting_.pop_front();
  known_.at(request.id).waiting.reset();
  size_.store(static_cast<int>(waiting_.size()), std::memory_order_relaxed);
  return request;
}

void RequestQueue::Forget(int64_t id) {
  std::lock_guard lock(mutex_);
  const auto known = known_.find(id);
  if (known == known_.end()) return;
  if (known->second.cancelled) std::erase(cancelled_, id);
  if (known->second.waiting) {
    Erase(*known->second.waiting);
  } else {
    known_.erase(known);
  }
}

void RequestQueue::SetBusy(bool busy) {
  {
    std::lock_guard lock(mutex_);
    busy_ = busy;
  }
  if (busy) work_.notify_all();
}

}  // namespace sax
