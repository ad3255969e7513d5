#include "native/sched/reservation.h"

#include <algorithm>

namespace sax {

bool Reservation::Fits(const Claim& claim) const {
  if (rows_ + claim.rows > max_rows_) return false;
  const int64_t own = claim.worst_case - static_cast<int64_t>(claim.held.size());
  const int64_t newly_held =
      std::ranges::count_if(claim.held, [this](int32_t page) { return holders_[page] == 0; });
  return pages() + own + newly_held <= static_cast<int64_t>(holders_.size());
}

void Reservation::Add(const Claim& claim) {
  rows_ += claim.rows;
  own_pages_ += claim.worst_case - static_cast<int64_t>(claim.held.size());
  for (const int32_t page : claim.held) held_pages_ += holders_[page]++ == 0;
}

void Reservation::Remove(const Claim& claim) {
  rows_ -= claim.rows;
  own_pages_ -= claim.worst_case - static_cast<int64_t>(claim.held.size());
  for (const int32_t page : claim.held) held_pages_ -= --holders_[page] == 0;
}

}  // namespace sax
