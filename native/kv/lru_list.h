// LruList orders small numbers by when they came in last; all operations take constant time and
// allocate nothing.
//
//   LruList idle(/*size=*/64);  // for the numbers 0..63
//   idle.Push(7);
//   idle.Push(3);
//   idle.oldest();              // 7
//   idle.Remove(7);
#ifndef NATIVE_KV_LRU_LIST_H_
#define NATIVE_KV_LRU_LIST_H_

#include <cstdint>
#include <vector>

namespace sax {

class LruList {
 public:
  explicit LruList(int size) : links_(size + 1) {
    for (int32_t i = 0; i <= size; ++i) links_[i] = {i, i};
  }

  int size() const { return size_; }
  bool Contains(int32_t item) const { return links_[item].next != item; }
  // Of a list that is not empty.
  int32_t oldest() const { return links_.back().next; }
  // What came in after `item`, which must be in; End() after the last.
  int32_t Next(int32_t item) const { return links_[item].next; }
  int32_t End() const { return static_cast<int32_t>(links_.size()) - 1; }

  // Puts in, as the youngest, what is not in yet.
  void Push(int32_t item) {
    const int32_t end = End(), last = links_[end].previous;
    links_[item] = {last, end};
    links_[last].next = item;
    links_[end].previous = item;
    ++size_;
  }

  // Takes out what is in.
  void Remove(int32_t item) {
    const Link link = links_[item];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
    links_[item] = {item, item};
    --size_;
  }

 private:
  struct Link {
    int32_t previous, next;
  };

  std::vector<Link> links_;  // a ring; the last link is its end, who is not in links to itself
  int size_ = 0;
};

}  // namespace sax

#endif  // NATIVE_KV_LRU_LIST_H_
