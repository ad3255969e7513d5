#include "native/kv/prefix_index.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "native/base/str_cat.h"

namespace sax {

uint64_t HashPage(uint64_t parent, std::span<const int32_t> tokens) {
  // A multiply and a fold a token (Knuth's golden-ratio constant): spreads well enough for a table
  // that compares what it finds.
  uint64_t hash = parent + 0x9E3779B97F4A7C15;
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  }
  return hash;
}

PrefixIndex::PrefixIndex(PagePool* pool, Hash hash)
    : pool_(pool),
      hash_(hash),
      nodes_(pool->num_pages()),
      tokens_(static_cast<size_t>(pool->num_pages()) * pool->page_size()),
      buckets_(std::bit_ceil(static_cast<size_t>(pool->num_pages())), -1) {
  pool_->OnEvict([this](int32_t page) { Forget(page); });
}

PrefixIndex::~PrefixIndex() {
  pool_->OnEvict(nullptr);
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    if (pool_->Kept(page)) pool_->Unkeep(page);
  }
}

void PrefixIndex::Match(std::span<const int32_t> tokens, uint64_t salt, int max_pages,
                        std::vector<int32_t>* pages) const {
  pages->clear();
  const size_t size = pool_->page_size();
  int32_t parent = kNoParent;
  for (int i = 0; i < max_pages && (i + 1) * size <= tokens.size(); ++i) {
    const auto own = tokens.subspan(i * size, size);
    parent = Find(HashBehind(parent, own, salt), parent, own, salt);
    if (parent < 0) return;
    pages->push_back(parent);
  }
}

int32_t PrefixIndex::Enter(int32_t parent, std::span<const int32_t> tokens, uint64_t salt,
                           int32_t page) {
  if (static_cast<int>(tokens.size()) != pool_->page_size()) {
    throw std::invalid_argument(StrCat("page ", page, " is entered with ", tokens.size(),
                                       " tokens; only full pages of ", pool_->page_size(),
                                       " may be"));
  }
  if (parent != kNoParent && !pool_->Kept(parent)) {
    throw std::invalid_argument(
        StrCat("page ", page, " is entered below page ", parent, ", which is not in the index"));
  }
  const uint64_t hash = HashBehind(parent, tokens, salt);
  const int32_t found = Find(hash, parent, tokens, salt);
  if (found >= 0) return found;
  pool_->Keep(page);
  int32_t& first = Bucket(hash);
  nodes_[page] = {.hash = hash, .salt = salt, .parent = parent, .next = first};
  first = page;
  std::ranges::copy(tokens, tokens_.begin() + page * tokens.size());
  ++size_;
  return page;
}

uint64_t PrefixIndex::HashBehind(int32_t parent, std::span<const int32_t> tokens,
                                 uint64_t salt) const {
  return hash_(parent == kNoParent ? salt : nodes_[parent].hash, tokens);
}

int32_t PrefixIndex::Find(uint64_t hash, int32_t parent, std::span<const int32_t> tokens,
                          uint64_t salt) const {
  int32_t page = buckets_[hash & (buckets_.size() - 1)];
  for (; page >= 0; page = nodes_[page].next) {
    const Node& node = nodes_[page];
    if (node.hash == hash && node.parent == parent && node.salt == salt &&
        std::equal(tokens.begin(), tokens.end(), tokens_.begin() + page * tokens.size())) {
      return page;
    }
  }
  return -1;
}

void PrefixIndex::Forget(int32_t page) {
  int32_t* link = &Bucket(nodes_[page].hash);
  while (*link != page) link = &nodes_[*link].next;
  *link = nodes_[page].next;
  --size_;
}

void PrefixIndex::CheckIntegrity() const {
  const auto require = [](bool good, const auto&... what) {
    if (!good) throw std::runtime_error(StrCat(what...));
  };
  const size_t size = pool_->page_size();
  int kept = 0;
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    if (!pool_->Kept(page)) continue;
    ++kept;
    const Node& node = nodes_[page];
    const std::span own = std::span(tokens_).subspan(page * size, size);
    require(node.parent == kNoParent || pool_->Kept(node.parent), "page ", page,
            " of the index lies below page ", node.parent, ", which is not in it");
    require(node.parent == kNoParent || !pool_->cached().Contains(node.parent) ||
                pool_->cached().Contains(page),
            "page ", page, " of the index is used and page ", node.parent, " above it is not");
    require(node.hash == HashBehind(node.parent, own, node.salt), "page ", page,
            " of the index has another hash than its tokens");
    require(Find(node.hash, node.parent, own, node.salt) == page, "page ", page,
            " of the index is not found by its tokens");
  }
  require(kept == size_, "pages kept: ", kept, ", in the index: ", size_);
  std::vector<bool> taken(pool_->num_pages());
  const LruList& cached = pool_->cached();
  for (int32_t page = cached.Next(cached.End()); page != cached.End(); page = cached.Next(page)) {
    taken[page] = true;
    const int32_t parent = nodes_[page].parent;
    require(parent == kNoParent || !taken[parent], "page ", parent,
            " of the index would be taken before page ", page, " below it");
  }
}

}  // namespace sax
