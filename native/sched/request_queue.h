// RequestQueue is the border between the threads that bring requests and the one that serves them:
// bounded, first come first served, with deadlines and cancellation.
//
//   RequestQueue queue(/*capacity=*/128);
//   queue.Push(std::move(request));            // any thread; throws QueueFull
//   queue.Wait(1.0);                           // the serving thread sleeps until there is work
//   queue.DropDead(now, &dropped, &cancelled);
//   if (queue.Front() != nullptr) serve(queue.Pop());
#ifndef NATIVE_SCHED_REQUEST_QUEUE_H_
#define NATIVE_SCHED_REQUEST_QUEUE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "native/sched/request.h"

namespace sax {

// Push() found `capacity` requests waiting.
class QueueFull : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class RequestQueue {
 public:
  // Throws std::invalid_argument unless capacity is positive.
  explicit RequestQueue(int capacity);

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
  // Requests that wait.
  int size() const { return size_.load(std::memory_order_relaxed); }

  // --- the serving thread ---

  // Removes the waiting requests that were cancelled or whose deadline has come, and appends them
  // to `dropped`. Appends to `cancelled` the ids of cancelled requests that were popped already.
  void DropDead(double now, std::vector<Dropped>* dropped, std::vector<int64_t>* cancelled);
  // The next request, or nullptr. Valid until the next call of Pop, DropDead or Forget.
  const Request* Front() const;
  // Takes the next request; the queue must not be empty.
  Request Pop();
  // Ends a request, waiting or popped: its id may be used again. Unknown ids are ignored.
  void Forget(int64_t id);
  // Says whether the serving thread has work besides what waits.
  void SetBusy(bool busy);

 private:
  using List = std::list<Request>;
  struct Known {
    std::optional<List::iterator> waiting;  // none: popped
    bool cancelled = false;
  };

  void Erase(List::iterator request);

  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  // All below are guarded by mutex_ (size_ is written under it).
  List waiting_;
  std::unordered_map<int64_t, Known> known_;
  std::vector<int64_t> cancelled_;
  double first_deadline_ = std::numeric_limits<double>::infinity();  // none waiting is earlier
  bool woken_ = false;
  bool busy_ = false;
  std::atomic<int> size_ = 0;
};

}  // namespace sax

#endif  // NATIVE_SCHED_REQUEST_QUEUE_H_
