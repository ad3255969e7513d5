// StrCat builds error messages: throw std::invalid_argument(StrCat("page ", page, " is free")).
#ifndef NATIVE_BASE_STR_CAT_H_
#define NATIVE_BASE_STR_CAT_H_

#include <sstream>
#include <string>

namespace sax {

template <typename... Pieces>
std::string StrCat(const Pieces&... pieces) {
  std::ostringstream out;
  (out << ... << pieces);
  return out.str();
}

}  // namespace sax

#endif  // NATIVE_BASE_STR_CAT_H_
