// PageTable maps the positions of one sequence to pages. Forks share pages; a table that writes
// into a page that others use too gets a copy of its own (copy on write).
//
//   PageTable prompt(&pool);
//   prompt.Extend(20);                     // pages for 20 tokens
//   PageTable beam = prompt.Fork();        // same pages, one more user each
//   if (auto copy = beam.Extend(1)) { ... } // copy->src to copy->dst before writing
//   beam.Trim(10);                         // the pages behind position 10 are released
#ifndef NATIVE_KV_PAGE_TABLE_H_
#define NATIVE_KV_PAGE_TABLE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "native/kv/page_pool.h"

namespace sax {

// The device must copy all of page src to page dst before it writes to either.
struct PageCopy {
  int32_t src;
  int32_t dst;
};

// Not thread-safe. The pool must outlive its tables; a table releases its pages when it dies.
class PageTable {
 public:
  // Room for `capacity` pages is set aside, so that growing up to it does not allocate memory.
  explicit PageTable(PagePool* pool, int capacity = 0);
  ~PageTable() { Trim(0); }

  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&& other) noexcept;

  // A table of the same length on the same pages.
  PageTable Fork() const;

  // Begins an empty table with full pages that hold its tokens already.
  void Share(std::span<const int32_t> pages);
  // Uses `page`, whose contents are the same, in place of the page at `index`.
  void Replace(int index, int32_t page);

  // Makes the sequence `tokens` longer. Returns the copy that writing needs, if the last page is
  // shared and not full; at most one. Throws OutOfPages and changes nothing when the pool is short.
  std::optional<PageCopy> Extend(int tokens);

  // Cuts the sequence to `length` tokens (no longer than it is) and releases the pages behind.
  void Trim(int length);

  // Where the token at a position < length() lies: page * page_size + offset.
  int32_t Slot(int position) const {
    const int size = pool_->page_size();
    return pages_[position / size] * size + position % size;
  }

  int length() const { return length_; }
  // Pages without room.
  int full_pages() const { return length_ / pool_->page_size(); }
  std::span<const int32_t> pages() const { return pages_; }

 private:
  PagePool* pool_;
  int length_ = 0;
  std::vector<int32_t> pages_;  // always ceil(length_ / page_size)
};

}  // namespace sax

#endif  // NATIVE_KV_PAGE_TABLE_H_
