// Request is what a caller asks of the scheduler, as plain data.
//
//   Request request{.id = 7, .prompt = {11, 12, 13}, .width = 4, .max_new_tokens = 32};
//   request.fork_at_start = true;    // four samples: the finished prompt gives an entry for each
//   request.deadline = now + 20;     // seconds of a monotonic clock
//   queue.Push(std::move(request));
#ifndef NATIVE_SCHED_REQUEST_H_
#define NATIVE_SCHED_REQUEST_H_

#include <cstdint>
#include <limits>
#include <vector>

namespace sax {

struct Request {
  int64_t id = 0;
  std::vector<int32_t> prompt = {};
  // Most sequences alive at once: beams or samples.
  int width = 1;
  // The finished prefill emits `width` entries instead of one.
  bool fork_at_start = false;
  int max_new_tokens = 0;
  // For scoring: the last targets.size() prompt tokens each emit an entry with one of these.
  std::vector<int32_t> targets = {};
  // Words that travel with every entry of this request; the scheduler does not look at them.
  std::vector<int32_t> row_params = {};
  double deadline = std::numeric_limits<double>::infinity();
  // Higher ones leave the queue first, and running ones make way for them.
  int priority = 0;
  // Pages are shared only among requests with the same salt.
  uint64_t cache_salt = 0;
  // Whether pages that others computed may be used. Its own are entered for others in any case.
  bool cache_read = true;
  // Its number in the order of arrival; the queue sets it.
  int64_t arrival = 0;
};

// Whether `a` is served before `b`.
inline bool Precedes(const Request& a, const Request& b) {
  return a.priority != b.priority ? a.priority > b.priority : a.arrival < b.arrival;
}

// Why the scheduler gave a request up. kStuck: nothing could be planned for it or anything else,
// which is a bug.
enum class DropReason { kCancelled, kExpired, kStuck };

struct Dropped {
  int64_t id;
  DropReason reason;

  bool operator==(const Dropped&) const = default;
};

}  // namespace sax

#endif  // NATIVE_SCHED_REQUEST_H_
