// Scheduler decides what the device does next: which sequences decode, which pieces of which
// prompts join them, on which pages. It serves requests by priority and then in the order in which
// they came, and starts one only when it can finish in any case. What others computed of a prompt
// is not computed again. One of a higher priority that finds no room has running ones of lower
// priority suspended: these give their pages back, wait in their old places, and are restored
// later.
//
//   Scheduler scheduler(config);
//   scheduler.Submit(std::move(request));                   // any thread
//   while (auto plan = scheduler.Plan(now)) {               // the engine thread
//     /* run the step, choose tokens from its entries */
//     scheduler.Advance(id, parents, tokens);               // or Finish(id)
//   }
#ifndef NATIVE_SCHED_SCHEDULER_H_
#define NATIVE_SCHED_SCHEDULER_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "native/kv/page_pool.h"
#include "native/kv/prefix_index.h"
#include "native/sched/config.h"
#include "native/sched/group.h"
#include "native/sched/mix_rule.h"
#include "native/sched/plan_writer.h"
#include "native/sched/request_queue.h"
#include "native/sched/reservation.h"
#include "native/sched/step_plan.h"

namespace sax {

class Scheduler {
 public:
  // Throws std::invalid_argument for sizes that do not fit together.
  explicit Scheduler(SchedulerConfig config);

  // --- any thread ---

  // Queues a request. Throws QueueFull, or std::invalid_argument for one that could never run.
  void Submit(Request request);
  // Has the next Plan() drop a request, in whatever state. Unknown ids are ignored.
  void Cancel(int64_t id) { queue_.Cancel(id); }
  // See RequestQueue::Wait; running requests are work.
  bool Wait(double timeout) { return queue_.Wait(timeout); }
  void Wake() { queue_.Wake(); }
  // Requests that wait, those that were suspended included, and the prompt tokens of the others.
  int waiting() const { return queue_.size() + num_suspended_.load(std::memory_order_relaxed); }
  int64_t queued_tokens() const { return queue_.tokens(); }
  int running() const { return num_running_.load(std::memory_order_relaxed); }
  // Pages that hold nothing; that no sequence uses, kept for prompts that begin alike and taken
  // when none is free; that sequences use. They add up to all.
  int free_pages() const { return pages_.load(std::memory_order_relaxed).free; }
  int cached_pages() const { return pages_.load(std::memory_order_relaxed).cached; }
  int used_pages() const {
    const Pages pages = pages_.load(std::memory_order_relaxed);
    return config_.num_pages - pages.free - pages.cached;
  }
  // Tokens that the used pages hold, those of a page counted once however many sequences share it:
  // what is less than used_pages() full ones is waste. Of the same moment as the page counts when
  // no other thread changes them.
  int64_t used_tokens() const {
    return int64_t{used_pages()} * config_.page_size - unfilled_.load(std::memory_order_relaxed);
  }
  // Tokens of the prompts that were looked up since the start, and how many of them were found.
  int64_t prefix_queried_tokens() const { return queried_.load(std::memory_order_relaxed); }
  int64_t prefix_hit_tokens() const { return hits_.load(std::memory_order_relaxed); }

  // How often a request was suspended, since the start.
  int64_t preemptions() const { return preemptions_.load(std::memory_order_relaxed); }
  // Requests given up because nothing could be planned; more than none is a bug.
  int64_t stuck() const { return stuck_.load(std::memory_order_relaxed); }

  const SchedulerConfig& config() const { return config_; }
  // Where things lie in the plans of a bucket. Throws std::invalid_argument for another number.
  const PackedLayout& Layout(int bucket) const;

  // --- the engine thread ---

  // How much prompts may slow down those who decode; see MixRule. Before the first Plan().
  void SetMix(std::vector<int> largest) { mix_.Set(std::move(largest)); }
  // The next step, or nullptr when there is nothing to do. `now` is on the clock of the deadlines.
  // Steps must be run in the order in which they were planned: later ones read pages that earlier
  // ones write.
  std::unique_ptr<StepPlan> Plan(double now);
  // Requests that Plan() released since the last call, and why.
  std::vector<Dropped> TakeDropped();
  // See Group::Advance. Throws std::invalid_argument also for an id that does not run.
  void Advance(int64_t id, std::span<const int32_t> parents, std::span<const int32_t> tokens,
               std::span<const int32_t> samples = {});
  // Has these requests, whose entries the last plan emitted, go on before their tokens are known,
  // so that the next step can be planned: its token sources say whose choices it takes. Those that
  // end with these tokens, and those that are scored, are left as they are. False, and nothing is
  // changed, if one cannot, or one is to make way for a request of a higher priority first.
  bool RunAhead(std::span<const int64_t> ids);
  // See Group::Resolve. Throws std::invalid_argument also for an id that does not run.
  void Resolve(int64_t id, std::span<const int32_t> samples, std::span<const int32_t> tokens);
  // Releases all that a request holds. Unknown ids are ignored.
  void Finish(int64_t id);
  // Throws std::runtime_error with the numbers when page counts, tables and reservations disagree.
  void CheckIntegrity() const;

 private:
  friend class SchedulerPeer;  // breaks things in tests

  struct Budget {
    int tokens;
    int entries;
  };
  // The request to start next.
  struct Head {
    const Request* request;  // nullptr: none waits
    Group* suspended;        // its group, if it has run before
  };
  struct Pages {
    int32_t free;
    int32_t cached;
  };

  void DropDead(double now);
  void ChooseDecodeRows(Budget* left);
  void ChoosePrefillRows(Budget* left);
  void StartRequests(Budget* left);
  void ChoosePieces(Group* group, Budget* left);
  void StartRestore(Group* group);
  void ChooseRestoreRows(Group* group, Budget* left);
  Head NextHead() const;
  bool FindPrefix(const Head& head);
  Group* Start(const Head& head);
  Group* Running(int64_t id);
  bool Yields(const Group& group, const Request& head) const;
  bool MayPreempt(const Group& group, const Request& head) const;
  bool MakeRoom(const Request& head, const Claim& claim, Budget* left);
  void Preempt(Group* group, Budget* left);
  std::unique_ptr<Group> TakeRunning(Group* group);
  void WatchProgress(bool planned);
  const PackedLayout& SmallestLayout(const Budget& used) const;
  void Release(int64_t id);
  void CountUnfilled(Group* group);
  void CheckGroup(const Group& group) const;
  void CheckBooks() const;
  void Publish();

  const SchedulerConfig config_;
  std::vector<PackedLayout> layouts_;  // one a bucket
  MixRule mix_;
  RequestQueue queue_;
  PagePool pool_;
  std::optional<PrefixIndex> index_;
  std::vector<std::unique_ptr<Group>> running_;  // in order of start
  std::unordered_map<int64_t, Group*> by_id_;    // the same ones
  // Those that were preempted, in the order of Precedes(): by falling priority, rising arrival.
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Group>> suspended_;
  Reservation reservation_;  // of the same ones
  std::vector<Dropped> dropped_;
  std::vector<Row> rows_;             // scratch of Plan
  std::vector<int64_t> cancelled_;    // scratch of Plan
  std::vector<int32_t> prefix_;       // scratch of Plan: what FindPrefix found
  std::vector<Group*> victims_;       // scratch of MakeRoom
  bool busy_ = false;                 // what the queue was told
  bool head_waits_ = false;           // whether the last Plan() left a request waiting
  bool room_wanted_ = false;          // by the head, of requests whose tokens are awaited
  int empty_plans_ = 0;               // in a row, though there was work
  std::atomic<int> num_running_ = 0;  // for other threads
  std::atomic<int> num_suspended_ = 0;
  std::atomic<Pages> pages_ = Pages{0, 0};
  std::atomic<int64_t> unfilled_ = 0;
  std::atomic<int64_t> queried_ = 0;
  std::atomic<int64_t> hits_ = 0;
  std::atomic<int64_t> preemptions_ = 0;
  std::atomic<int64_t> stuck_ = 0;
};

}  // namespace sax

#endif  // NATIVE_SCHED_SCHEDULER_H_
