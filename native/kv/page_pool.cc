#include "native/kv/page_pool.h"

#include <algorithm>
#include <limits>

#include "native/base/str_cat.h"

namespace sax {

PagePool::PagePool(int num_pages, int page_size)
    : page_size_(page_size), cached_(std::max(num_pages, 0)) {
  if (num_pages < 1) {
    throw std::invalid_argument(StrCat("num_pages is ", num_pages, "; a pool needs at least 1"));
  }
  if (page_size < 1) {
    throw std::invalid_argument(
        StrCat("page_size is ", page_size, "; a page needs at least 1 slot"));
  }
  if (static_cast<int64_t>(num_pages) * page_size > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(StrCat("num_pages ", num_pages, " x page_size ", page_size,
                                       " slots do not fit an int32; take fewer pages"));
  }
  ref_counts_.assign(num_pages, 0);
  kept_.assign(num_pages, false);
  free_.reserve(num_pages);
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

int32_t PagePool::Allocate() {
  if (free_.empty()) {
    if (cached_.size() == 0) {
      throw OutOfPages(StrCat("all ", num_pages(), " pages are in use; release one first"));
    }
    const int32_t page = cached_.oldest();
    if (evicted_) evicted_(page);
    Unkeep(page);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  ref_counts_[page] = 1;
  return page;
}

void PagePool::Retain(int32_t page) {
  CheckUsed(page, "retained");
  if (cached_.Contains(page)) cached_.Remove(page);
  ++ref_counts_[page];
}

void PagePool::Release(int32_t page) {
  CheckUsed(page, "released");
  if (cached_.Contains(page)) {
    throw std::invalid_argument(
        StrCat("page ", page, " is used by the cache alone and cannot be released; unkeep it"));
  }
  if (--ref_counts_[page] == 0) {
    free_.push_back(page);
  } else if (ref_counts_[page] == 1 && kept_[page]) {
    cached_.Push(page);
  }
}

void PagePool::Keep(int32_t page) {
  CheckUsed(page, "kept");
  if (kept_[page]) throw std::invalid_argument(StrCat("page ", page, " is kept already"));
  kept_[page] = true;
  ++ref_counts_[page];
}

void PagePool::Unkeep(int32_t page) {
  if (!Kept(page)) throw std::invalid_argument(StrCat("page ", page, " is not kept"));
  if (cached_.Contains(page)) cached_.Remove(page);
  kept_[page] = false;
  if (--ref_counts_[page] == 0) free_.push_back(page);
}

bool PagePool::Kept(int32_t page) const {
  CheckPage(page);
  return kept_[page];
}

int PagePool::RefCount(int32_t page) const {
  CheckPage(page);
  return ref_counts_[page];
}

void PagePool::CheckPage(int32_t page) const {
  if (page < 0 || page >= num_pages()) {
    throw std::invalid_argument(
        StrCat("page ", page, " is not one of the pool's 0..", num_pages() - 1));
  }
}

void PagePool::CheckUsed(int32_t page, const char* verb) const {
  CheckPage(page);
  if (ref_counts_[page] == 0) {
    throw std::invalid_argument(
        StrCat("page ", page, " is free and cannot be ", verb, "; allocate it first"));
  }
}

void PagePool::CheckIntegrity() const {
  std::vector<bool> listed(ref_counts_.size());
  for (int32_t page : free_) {
    if (listed[page]) throw std::runtime_error(StrCat("page ", page, " is on the free list twice"));
    listed[page] = true;
    if (ref_counts_[page] != 0) {
      throw std::runtime_error(
          StrCat("page ", page, " is on the free list with reference count ", ref_counts_[page]));
    }
  }
  int used = 0;
  for (int32_t page = 0; page < num_pages(); ++page) {
    const bool only_kept = kept_[page] && ref_counts_[page] == 1;
    if (only_kept != cached_.Contains(page)) {
      throw std::runtime_error(StrCat("page ", page, " with reference count ", ref_counts_[page],
                                      kept_[page] ? ", kept," : ", not kept,", " is ",
                                      only_kept ? "not " : "", "on the list of cached pages"));
    }
    used += ref_counts_[page] != 0 && !only_kept;
  }
  if (used + cached_pages() + free_pages() != num_pages()) {
    throw std::runtime_error(StrCat("used ", used, " + cached ", cached_pages(), " + free ",
                                    free_pages(), " pages are not all ", num_pages(),
                                    " of the pool"));
  }
}

}  // namespace sax
