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
#include <stdexcept>
#include <vector>

namespace sax {

// Allocate() found no free page.
class OutOfPages : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Not thread-safe: one thread owns a pool.
class PagePool {
 public:
  // Throws std::invalid_argument unless both are positive and a slot number
  // (page * page_size + offset) fits an int32.
  PagePool(int num_pages, int page_size);

  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A free page, now used once. Throws OutOfPages.
  int32_t Allocate();
  // One user more, or one less. Throws std::invalid_argument for a page that is free or unknown.
  void Retain(int32_t page);
  void Release(int32_t page);
  // Users of a page, 0 when it is free. Throws std::invalid_argument for an unknown page.
  int RefCount(int32_t page) const;

  int num_pages() const { return static_cast<int>(ref_counts_.size()); }
  int page_size() const { return page_size_; }
  int free_pages() const { return static_cast<int>(free_.size()); }

  // Throws std::runtime_error with the numbers unless the free list holds exactly the pages that
  // nobody uses, each once.
  void CheckIntegrity() const;

 private:
  void CheckPage(int32_t page) const;
  void CheckUsed(int32_t page, const char* verb) const;

  int page_size_;
  std::vector<int32_t> ref_counts_;
  std::vector<int32_t> free_;  // used from the back: the page freed last is handed out first
};

}  // namespace sax

#endif  // NATIVE_KV_PAGE_POOL_H_
