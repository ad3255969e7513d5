// PrefixIndex finds the pages that hold the beginning of a sequence which somebody computed before.
// A page is entered when it is full, below the page before it: hash(parent's hash, its tokens). On
// a hit the parent, the tokens and the salt are compared, so that a collision of hashes finds
// nothing instead of another's keys and values. Sequences with different salts never share.
//
//   PrefixIndex index(&pool);
//   int32_t first = index.Enter(PrefixIndex::kNoParent, tokens.first(16), salt, pages[0]);
//   int32_t second = index.Enter(first, tokens.subspan(16, 16), salt, pages[1]);
//   index.Match(tokens, salt, /*max_pages=*/2, &found);   // first, second; Retain() them to use
//   them
//
// The index keeps its pages (PagePool::Keep) and loses those that Allocate() takes.
#ifndef NATIVE_KV_PREFIX_INDEX_H_
#define NATIVE_KV_PREFIX_INDEX_H_

#include <cstdint>
#include <span>
#include <vector>

#include "native/kv/page_pool.h"

namespace sax {

// The hash of a page of tokens behind a page with hash `parent`.
uint64_t HashPage(uint64_t parent, std::span<const int32_t> tokens);

// Not thread-safe. The pool must outlive the index, and is its alone to keep pages in.
//
// Rule: who uses a page of the index uses all pages above it. Match() gives whole beginnings,
// Enter() takes a page only below one of the index that the caller uses, and users let go of their
// pages from the end. So a page never is cached for longer than one below it, the oldest cached
// page has none below it, and taking pages away one by one, oldest first, never cuts a chain in the
// middle.
class PrefixIndex {
 public:
  static constexpr int32_t kNoParent = -1;
  using Hash = uint64_t (*)(uint64_t parent, std::span<const int32_t> tokens);

  explicit PrefixIndex(PagePool* pool, Hash hash = &HashPage);
  ~PrefixIndex();

  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Sets `pages` to those that hold the beginning of `tokens`, as many as there are up to
  // `max_pages`.
  void Match(std::span<const int32_t> tokens, uint64_t salt, int max_pages,
             std::vector<int32_t>* pages) const;

  // Enters a page full of `tokens` that follows `parent`, a page of the index or kNoParent. Gives
  // the page that the index has for them: an earlier one with the same contents, which the caller
  // must use instead of its own from here on, or else `page`.
  int32_t Enter(int32_t parent, std::span<const int32_t> tokens, uint64_t salt, int32_t page);

  // Pages that the index keeps, in use or not.
  int size() const { return size_; }

  // Throws std::runtime_error with the numbers when the index and the pool disagree, or a chain is
  // cut or would be by the next Allocate().
  void CheckIntegrity() const;

 private:
  struct Node {  // of the page with the same number
    uint64_t hash;
    uint64_t salt;
    int32_t parent;
    int32_t next;  // with the same bucket
  };

  uint64_t HashBehind(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const;
  int32_t Find(uint64_t hash, int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const;
  void Forget(int32_t page);
  int32_t& Bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }

  PagePool* const pool_;
  const Hash hash_;
  int size_ = 0;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;   // page_size a page
  std::vector<int32_t> buckets_;  // first page of each, -1: none
};

}  // namespace sax

#endif  // NATIVE_KV_PREFIX_INDEX_H_
