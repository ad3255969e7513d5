// Reservation is the book of the rows and pages that started requests may need. One is started only
// if it fits into the book, and so it can finish in any case.
//
//   Reservation book(/*max_rows=*/8, /*num_pages=*/512);
//   const Claim claim = {.rows = 4, .worst_case = 20, .held = prefix};
//   if (book.Fits(claim)) book.Add(claim);
//
// Many requests that begin alike use the same pages, and these are counted once. What a request
// takes from the prefix index at its start it holds until its end: all its sequences begin with
// those pages. So
//
//   reserved = sum over requests of (worst case - pages held) + pages held by at least one.
//
// Proof that an admitted request never lacks a page. Every page in use is either held by somebody,
// and counted once in the second term, or not; choose one of its users then. A user with worst case
// w that holds h pages uses at most w different ones in all, h of these for good, so at most w - h
// others are chosen for it, which its part of the first term counts. Hence used <= reserved <=
// num_pages, and this stays so whatever the requests grow to within their worst cases: a page that
// one of them still has to take is free or cached. (A page held by others counts once more in the
// worst case of the request that computed it, and in that of one that came to use it later, by
// computing the same. That is more than needed, and goes when they end.)
#ifndef NATIVE_SCHED_RESERVATION_H_
#define NATIVE_SCHED_RESERVATION_H_

#include <cstdint>
#include <span>
#include <vector>

namespace sax {

// What one request may need.
struct Claim {
  int rows;
  int64_t worst_case;             // pages, those held included
  std::span<const int32_t> held;  // pages
};

class Reservation {
 public:
  Reservation(int max_rows, int num_pages) : max_rows_(max_rows), holders_(num_pages) {}

  bool Fits(const Claim& claim) const;
  void Add(const Claim& claim);
  // Undoes an Add() of the same claim.
  void Remove(const Claim& claim);

  int rows() const { return rows_; }
  // Pages that all claims together may need.
  int64_t pages() const { return own_pages_ + held_pages_; }
  // Claims that hold a page.
  int holders(int32_t page) const { return holders_[page]; }

 private:
  const int max_rows_;
  int rows_ = 0;
  int64_t own_pages_ = 0;     // the first term
  int held_pages_ = 0;        // the second
  std::vector<int> holders_;  // of each page
};

}  // namespace sax

#endif  // NATIVE_SCHED_RESERVATION_H_
