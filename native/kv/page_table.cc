#include "native/kv/page_table.h"

#include <stdexcept>
#include <utility>

#include "native/base/str_cat.h"

namespace sax {

PageTable::PageTable(PagePool* pool, int capacity) : pool_(pool) { pages_.reserve(capacity); }

PageTable::PageTable(PageTable&& other) noexcept
    : pool_(other.pool_),
      length_(std::exchange(other.length_, 0)),
      pages_(std::exchange(other.pages_, {})) {}

PageTable& PageTable::operator=(PageTable&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(length_, other.length_);
  std::swap(pages_, other.pages_);
  return *this;
}

PageTable PageTable::Fork() const {
  PageTable fork(pool_, static_cast<int>(pages_.capacity()));
  fork.pages_.assign(pages_.begin(), pages_.end());
  fork.length_ = length_;
  for (int32_t page : pages_) pool_->Retain(page);
  return fork;
}

void PageTable::Share(std::span<const int32_t> pages) {
  if (length_ != 0) {
    throw std::invalid_argument(
        StrCat("a sequence of ", length_, " tokens cannot begin with pages of others"));
  }
  for (int32_t page : pages) {
    pool_->Retain(page);
    pages_.push_back(page);
    length_ += pool_->page_size();
  }
}

void PageTable::Replace(int index, int32_t page) {
  pool_->Retain(page);
  pool_->Release(std::exchange(pages_.at(index), page));
}

std::optional<PageCopy> PageTable::Extend(int tokens) {
  if (tokens < 1) return std::nullopt;
  const int size = pool_->page_size();
  const int total = (length_ + tokens + size - 1) / size;
  const int fresh = total - static_cast<int>(pages_.size());
  const bool shared = length_ % size != 0 && pool_->RefCount(pages_.back()) > 1;
  if (fresh + shared > pool_->available_pages()) {
    throw OutOfPages(StrCat("a sequence of ", length_, " tokens needs ", fresh + shared,
                            " pages to grow by ", tokens, ", and ", pool_->available_pages(),
                            " of ", pool_->num_pages(), " are free or cached"));
  }
  std::optional<PageCopy> copy;
  if (shared) {
    copy = PageCopy{pages_.back(), pool_->Allocate()};
    pool_->Release(copy->src);
    pages_.back() = copy->dst;
  }
  for (int i = 0; i < fresh; ++i) pages_.push_back(pool_->Allocate());
  length_ += tokens;
  return copy;
}

void PageTable::Trim(int length) {
  if (length < 0 || length > length_) {
    throw std::invalid_argument(
        StrCat("cannot trim a sequence of ", length_, " tokens to ", length));
  }
  const int size = pool_->page_size();
  const size_t keep = (length + size - 1) / size;
  while (pages_.size() > keep) {
    pool_->Release(pages_.back());
    pages_.pop_back();
  }
  length_ = length;
}

}  // namespace sax
