// Group is a request that runs: its sequences (beams or samples) and how far they are. It begins
// with one sequence that takes in the prompt in chunks; then whoever samples replaces the
// sequences, step by step, until it finishes the request. It may be suspended, when all its pages
// go, and resumed, when what they held is computed again; nothing else is done twice.
//
//   Group group(std::move(request), &pool, /*prefix=*/{});
//   Chunk chunk = group.NextChunk(/*tokens=*/512, /*entries=*/8);  // what fits into a step
//   group.sequences()[0].table.Extend(chunk.tokens);
//   group.Emitted();                              // the prompt is in and its entries are out
//   group.EnterPages(&index);                     // others may begin with its full pages
//   group.Advance({0, 0}, {17, 23});              // two beams continue the prompt
//   if (group.MayRunAhead()) group.RunAhead();    // goes on before the tokens are known,
//   group.Resolve({0, 1}, {17, 23});              // which are told later
//   group.Suspend();
//   group.Resume(/*prefix=*/{});                  // see kRestore
#ifndef NATIVE_SCHED_GROUP_H_
#define NATIVE_SCHED_GROUP_H_

#include <cstdint>
#include <span>
#include <vector>

#include "native/kv/page_table.h"
#include "native/kv/prefix_index.h"
#include "native/sched/request.h"
#include "native/sched/reservation.h"

namespace sax {

// The most pages a request can use at once: pages full of prompt are shared by its sequences, all
// others may differ in each.
int64_t WorstCasePages(const Request& request, int page_size);

// The first prompt token that emits an entry.
int FirstEntry(const Request& request);

struct Sequence {
  PageTable table;
  int32_t sample = 0;                // which of the request's samples it belongs to
  int32_t pending = 0;               // the token to process next, once the prompt is in
  int entry = 0;                     // its first one in the last plan
  int source = -1;                   // entry of the plan before that gives the pending token, or -1
  std::vector<int32_t> tokens = {};  // what follows the prompt, the pending one included
  int entered = 0;                   // pages, from the first, that are in the prefix index
};

// A piece of prompt for one step and the entries it emits. No tokens: nothing fits now.
struct Chunk {
  int tokens = 0;
  int entries = 0;
};

class Group {
 public:
  enum class Phase {
    kPrefill,   // prompt tokens are left
    kRestore,   // resumed; sequences lack tokens before the pending one
    kDecode,    // every sequence has a pending token
    kAwaiting,  // entries are out; Advance() or the end comes next
  };

  // `prefix`: pages that hold the beginning of the prompt already.
  Group(Request request, PagePool* pool, std::span<const int32_t> prefix = {});

  const Request& request() const { return request_; }
  Phase phase() const { return phase_; }
  // What the group may need, in the books.
  Claim claim() const {
    return {request_.width, worst_case_, sequences_[0].table.pages().first(held_)};
  }
  // Tokens that the group's pages have room for and do not hold; see CountUnfilled.
  int unfilled() const { return unfilled_; }
  std::span<Sequence> sequences() { return sequences_; }
  std::span<const Sequence> sequences() const { return sequences_; }

  bool scored() const { return !request_.targets.empty(); }
  // How often it was suspended.
  int suspensions() const { return suspensions_; }
  // Prompt tokens that the pages hold.
  int prefilled() const { return sequences_[0].table.length(); }
  int first_entry() const { return FirstEntry(request_); }

  // The longest piece of prompt that fits into so many tokens and entries. Scoring is cut so that
  // its entries fit; a prompt whose end would emit too many entries waits as a whole.
  Chunk NextChunk(int tokens, int entries) const;

  // The tokens that the first sequence computes next after Suspend(), from the very first, and how
  // many of their pages others may have computed: at least one token is left to do.
  std::span<const int32_t> Beginning();
  int most_shared_pages() const;

  // Tokens that a sequence lacks to decode, or to start with, for kRestore.
  int missing(int seq) const {
    const Sequence& sequence = sequences_[seq];
    return WithoutPending(sequence) - sequence.table.length();
  }
  // Starts a sequence that is to be restored, unless it has started: on the pages that it has in
  // common with an earlier one of the group, or on more of `index` (nullptr: none). False: that
  // other one has not come to the end of these pages yet.
  bool StartRestore(int seq, const PrefixIndex* index);
  // Token `position` of a sequence, the prompt's included.
  int32_t token(const Sequence& sequence, int position) const {
    const int prompt = static_cast<int>(request_.prompt.size());
    return position < prompt ? request_.prompt[position] : sequence.tokens[position - prompt];
  }
  // Once all sequences are restored, they decode.
  void Restored();

  // Enters the full pages that are not in `index` yet; a page that the index has already, by
  // another's work, takes the place of the own one. All that was planned must come before anything
  // that is planned later.
  void EnterPages(PrefixIndex* index);

  // Brings unfilled() up to date, after tables have changed. Only last pages have room, and those
  // of sequences that have not written since they parted are one page.
  void CountUnfilled();

  // Entries were emitted that the group must wait for.
  void Emitted() {
    phase_ = Phase::kAwaiting;
    fresh_ = true;
  }
  // Another plan begins; the entries are no longer the last one's.
  void Age() { fresh_ = false; }
  bool fresh() const { return fresh_; }

  // Whether all sequences may go on, each with the token that the device chose for it and nobody
  // else knows yet. False also for one that ends with that token.
  bool MayRunAhead() const {
    return phase_ == Phase::kAwaiting && fresh_ && !unknown_ &&
           generated_ + 1 < request_.max_new_tokens;
  }
  // Goes on so: every entry of the last plan becomes a sequence. Only if MayRunAhead().
  void RunAhead();
  // Whether it has run ahead and its last tokens were not told yet.
  bool unknown() const { return unknown_; }
  // Tells them: the sequences of samples[j], in their order, go on with tokens[j], the others end.
  // Throws std::invalid_argument, and changes nothing, when nothing is unknown or these are not
  // samples of the group.
  void Resolve(std::span<const int32_t> samples, std::span<const int32_t> tokens);

  // Gives all pages back. Not for a group that awaits tokens, or whose tokens are unknown.
  void Suspend();
  // Goes on after Suspend(); `prefix`: pages that hold the start of Beginning().
  void Resume(std::span<const int32_t> prefix);

  // Child j continues sequence parents[j] with tokens[j] and becomes sequence j; the others end.
  // Its entries carry samples[j], which stays with a sample when others end; without samples, j.
  // Throws std::invalid_argument, and changes nothing, when nothing is awaited, sizes differ or are
  // not 1..width, a parent does not exist, or max_new_tokens would be passed.
  void Advance(std::span<const int32_t> parents, std::span<const int32_t> tokens,
               std::span<const int32_t> samples = {});

 private:
  std::span<const int32_t> PageTokens(const Sequence& sequence, int index);
  // The length that a sequence has when its pending token comes next.
  int WithoutPending(const Sequence& sequence) const {
    return static_cast<int>(request_.prompt.size() + sequence.tokens.size()) - 1;
  }
  int CommonTokens(const Sequence& a, const Sequence& b) const;
  void CheckAdvance(std::span<const int32_t> parents, std::span<const int32_t> tokens,
                    std::span<const int32_t> samples) const;

  Request request_;
  const int page_size_;
  PagePool* const pool_;
  const int64_t worst_case_;  // pages
  int held_;                  // pages from the prefix index that all sequences begin with
  int unfilled_ = 0;
  int generated_ = 0;      // tokens added by Advance to each sequence
  int scored_tokens_ = 0;  // before the last Suspend(): their entries are out
  int suspensions_ = 0;
  bool fresh_ = false;    // whether the last plan emitted its entries
  bool unknown_ = false;  // the last token of every sequence
  Phase phase_ = Phase::kPrefill;
  std::vector<Sequence> sequences_;
  std::vector<Sequence> next_;                                         // scratch of Advance
  std::vector<int> uses_;                                              // scratch of Advance
  std::vector<int32_t> ahead_parents_, ahead_tokens_, ahead_samples_;  // scratch of RunAhead
  std::vector<int32_t> page_;                                          // scratch of EnterPages
  std::vector<int32_t> history_;  // scratch of Beginning and StartRestore
  std::vector<int32_t> found_;    // scratch of StartRestore
};

}  // namespace sax

#endif  // NATIVE_SCHED_GROUP_H_
