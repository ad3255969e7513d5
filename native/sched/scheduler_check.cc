// Scheduler::CheckIntegrity: counts once more, from the sequences, what the scheduler keeps books
// of.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <vector>

#include "native/base/str_cat.h"
#include "native/sched/scheduler.h"

namespace sax {
namespace {

template <typename... What>
void Require(bool good, const What&... what) {
  if (!good) throw std::runtime_error(StrCat(what...));
}

}  // namespace

void Scheduler::CheckIntegrity() const {
  pool_.CheckIntegrity();
  if (index_) index_->CheckIntegrity();
  std::vector<int> uses(config_.num_pages);
  for (const auto& group : running_) {
    CheckGroup(*group);
    for (const Sequence& sequence : group->sequences()) {
      for (const int32_t page : sequence.table.pages()) ++uses[page];
    }
  }
  for (int page = 0; page < config_.num_pages; ++page) {
    const int kept = pool_.Kept(page);
    Require(uses[page] + kept == pool_.RefCount(page), "page ", page, " has reference count ",
            pool_.RefCount(page), ", and ", uses[page], " uses by sequences and ", kept,
            " by the prefix index");
  }
  Require(by_id_.size() == running_.size(), "ids of running requests: ", by_id_.size(),
          ", running: ", running_.size());
  const Request* before = nullptr;
  for (const auto& [place, group] : suspended_) {
    const Request& request = group->request();
    Require(before == nullptr || Precedes(*before, request), "request ", request.id,
            " is suspended in the wrong place");
    before = &request;
    for (const Sequence& sequence : group->sequences()) {
      Require(sequence.table.length() == 0, "request ", request.id,
              " is suspended and has pages for ", sequence.table.length(), " tokens");
    }
  }
  Require(waiting() == queue_.size() + static_cast<int>(suspended_.size()),
          "suspended requests: ", suspended_.size(), ", counted: ", waiting() - queue_.size());
  Require(free_pages() == pool_.free_pages() && cached_pages() == pool_.cached_pages(),
          "pages published: ", free_pages(), " free, ", cached_pages(),
          " cached; in the pool: ", pool_.free_pages(), " and ", pool_.cached_pages());
  CheckBooks();
}

void Scheduler::CheckGroup(const Group& group) const {
  const int64_t id = group.request().id;
  const Claim claim = group.claim();
  std::set<int32_t> own, unfilled_pages;
  int unfilled = 0;
  for (const Sequence& sequence : group.sequences()) {
    const auto pages = sequence.table.pages();
    const int size = config_.page_size, length = sequence.table.length();
    Require(static_cast<int>(pages.size()) == (length + size - 1) / size, "request ", id, ": ",
            pages.size(), " pages for a sequence of ", length, " tokens");
    own.insert(pages.begin(), pages.end());
    if (group.phase() == Group::Phase::kRestore && length == 0) continue;
    Require(std::ranges::equal(pages.first(claim.held.size()), claim.held), "request ", id,
            ": a sequence does not begin with the ", claim.held.size(), " pages it holds");
    if (length % size != 0 && unfilled_pages.insert(pages.back()).second) {
      unfilled += size - length % size;
    }
  }
  Require(static_cast<int64_t>(own.size()) <= claim.worst_case, "request ", id, " uses ",
          own.size(), " pages and its worst case is ", claim.worst_case);
  Require(unfilled == group.unfilled(), "request ", id, " has room for ", unfilled,
          " tokens in its pages, and counted ", group.unfilled());
}

void Scheduler::CheckBooks() const {
  Reservation again(config_.max_rows, config_.num_pages);
  int64_t unfilled = 0;
  for (const auto& group : running_) {
    again.Add(group->claim());
    unfilled += group->unfilled();
  }
  Require(again.rows() == reservation_.rows() && again.rows() <= config_.max_rows,
          "rows reserved: ", reservation_.rows(), ", by running requests: ", again.rows(),
          ", at most: ", config_.max_rows);
  Require(again.pages() == reservation_.pages() && again.pages() <= config_.num_pages,
          "pages reserved: ", reservation_.pages(), ", by running requests: ", again.pages(),
          ", at most: ", config_.num_pages);
  Require(used_pages() <= reservation_.pages(), "pages used: ", used_pages(),
          ", reserved: ", reservation_.pages());
  for (int page = 0; page < config_.num_pages; ++page) {
    Require(again.holders(page) == reservation_.holders(page), "page ", page, " is held by ",
            again.holders(page), " requests, and counted for ", reservation_.holders(page));
  }
  Require(unfilled == unfilled_.load(std::memory_order_relaxed),
          "room for tokens in used pages: ", unfilled,
          ", counted: ", unfilled_.load(std::memory_order_relaxed));
}

}  // namespace sax
