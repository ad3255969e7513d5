// RequestQueue is the border between the threads that bring requests and the one that serves them:
// bounded, by priority and then first come first served, with deadlines and cancellation.
//
//   RequestQueue queue(/*capacity=*/128, /*max_tokens=*/100000);
//   queue.Push(std::move(request));            // any thread; throws QueueFull
//   queue.Wait(1.0);                           // the serving thread sleeps until there is work
//   queue.DropDead(now, &dropped, &cancelled);
//   if (const Request* next = queue.Front()) serve(queue.Pop(next->id));
#ifndef NATIVE_SCHED_REQUEST_QUEUE_H_
#define NATIVE_SCHED_REQUEST_QUEUE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#include "native/sched/request.h"

namespace sax {

// Push() found `capacity` requests waiting, or too many tokens with them.
class QueueFull : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Higher priorities go first, and as long as such ones come, lower ones wait: until their
// deadlines, if they have any. Those of one priority go in order of arrival.
class RequestQueue {
 public:
  // capacity: requests that may wait. max_tokens: tokens of all their prompts; one that comes while
  // none waits is taken whatever its length, so that none is refused forever. Throws
  // std::invalid_argument unless both are positive.
  explicit RequestQueue(int capacity, int64_t max_tokens = std::numeric_limits<int64_t>::max());

  // --- any thread ---

  // Throws QueueFull, or std::invalid_argument when a request with this id is waiting or was
  // popped and not forgotten yet.
  void Push(Request request);
  // Marks a request; DropDead() acts on it. Unknown ids are ignored.
  void Cancel(int64_t id);
  // Waits at most `timeout` seconds until a request waits, a cancelled one is to be dropped, the
  // server is busy (SetBusy) or Wake() was called since the last Wait(). False: none of these.
  bool Wait(double timeout);
  void Wake();
  // Requests that wait, and the tokens of their prompts.
  int size() const { return size_.load(std::memory_order_relaxed); }
  int64_t tokens() const { return tokens_.load(std::memory_order_relaxed); }

  // --- the serving thread ---

  // Removes the waiting requests that were cancelled or whose deadline has come, and appends them
  // to `dropped`. Appends to `cancelled` the ids of cancelled requests that were popped already.
  void DropDead(double now, std::vector<Dropped>* dropped, std::vector<int64_t>* cancelled);
  // The next request, or nullptr. Valid until the next call of Pop, DropDead or Forget.
  const Request* Front() const;
  // Takes a waiting request: the one of Front(), before which another may be by now.
  Request Pop(int64_t id);
  // Ends a request, waiting or popped: its id may be used again. Unknown ids are ignored.
  void Forget(int64_t id);
  // Says whether the serving thread has work besides what waits.
  void SetBusy(bool busy);

 private:
  // By falling priority and rising number of arrival.
  using Waiting = std::map<std::pair<int64_t, int64_t>, Request>;
  struct Known {
    std::optional<Waiting::iterator> waiting;  // none: popped
    bool cancelled = false;
  };

  void CheckRoom(const Request& request) const;
  Request Take(Waiting::iterator waiting);

  const size_t capacity_;
  const int64_t max_tokens_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  // All below are guarded by mutex_ (size_ and tokens_ are written under it).
  Waiting waiting_;
  int64_t arrivals_ = 0;
  std::unordered_map<int64_t, Known> known_;
  std::vector<int64_t> cancelled_;
  double first_deadline_ = std::numeric_limits<double>::infinity();  // none waiting is earlier
  bool woken_ = false;
  bool busy_ = false;
  std::atomic<int> size_ = 0;
  std::atomic<int64_t> tokens_ = 0;
};

}  // namespace sax

#endif  // NATIVE_SCHED_REQUEST_QUEUE_H_
