// PagePool hands out the fixed-size pages of the KV cache and counts who uses each one. It knows
// numbers only; the memory itself lies on the device.
//
//   PagePool pool(/*num_pages=*/64, /*page_size=*/16);
//   int32_t page = pool.Allocate();  // one user
//   pool.Retain(page);               // two: a fork shares it
//   pool.Release(page);
//   pool.Release(page);              // free again
#ifndef NATIVE_KV_PAGE_POOL_H_
#define NATIVE_KV_PAGE_POOL_H_

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#include "native/kv/lru_list.h"

namespace sax {

// Allocate() found no page to give.
class OutOfPages : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Not thread-safe: one thread owns a pool.
//
// One user is special: a cache that keeps pages for later. A page that only the cache uses is
// cached; Allocate() takes it when none is free, the one that has been cached for the longest
// first.
class PagePool {
 public:
  // Throws std::invalid_argument unless both are positive and a slot number
  // (page * page_size + offset) fits an int32.
  PagePool(int num_pages, int page_size);

  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A page that is now used once: a free one, or else a cached one. Throws OutOfPages.
  int32_t Allocate();
  // One user more, or one less. Throws std::invalid_argument for a page that is free or unknown.
  void Retain(int32_t page);
  void Release(int32_t page);
  // Users of a page, the cache included; 0 when it is free. Throws std::invalid_argument for an
  // unknown page.
  int RefCount(int32_t page) const;

  // Makes the cache a user of a page, or no longer. Throws std::invalid_argument when it is one
  // already, or is none.
  void Keep(int32_t page);
  void Unkeep(int32_t page);
  bool Kept(int32_t page) const;
  // Allocate() tells `evicted` which page the cache has lost.
  void OnEvict(std::function<void(int32_t)> evicted) { evicted_ = std::move(evicted); }

  int num_pages() const { return static_cast<int>(ref_counts_.size()); }
  int page_size() const { return page_size_; }
  // Pages that nobody uses, that only the cache uses, and both: what Allocate() can give.
  int free_pages() const { return static_cast<int>(free_.size()); }
  int cached_pages() const { return cached_.size(); }
  int available_pages() const { return free_pages() + cached_pages(); }
  // The cached pages in the order in which Allocate() would take them.
  const LruList& cached() const { return cached_; }

  // Throws std::runtime_error with the numbers unless every page is free, cached or used, and only
  // one of these.
  void CheckIntegrity() const;

 private:
  void CheckPage(int32_t page) const;
  void CheckUsed(int32_t page, const char* verb) const;

  int page_size_;
  std::vector<int32_t> ref_counts_;
  std::vector<int32_t> free_;  // used from the back: the page freed last is handed out first
  std::vector<bool> kept_;
  LruList cached_;
  std::function<void(int32_t)> evicted_;
};

}  // namespace sax

#endif  // NATIVE_KV_PAGE_POOL_H_
