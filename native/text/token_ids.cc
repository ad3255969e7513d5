#include "native/text/token_ids.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "native/base/str_cat.h"

namespace sax {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr size_t kShown = 32;  // an error quotes at most this much of a piece

std::string_view Strip(std::string_view piece) {
  const size_t first = piece.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return piece.substr(first, piece.find_last_not_of(kBlanks) - first + 1);
}

// Printable ASCII as it is, other bytes as \xNN: the message is valid UTF-8 wherever it was cut.
std::string Quote(std::string_view piece) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (unsigned char c : piece.substr(0, kShown)) {
    if (c >= 0x20 && c < 0x7f) {
      quoted += static_cast<char>(c);
    } else {
      quoted += {'\\', 'x', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return quoted + (piece.size() > kShown ? "...\"" : "\"");
}

}  // namespace

std::vector<int32_t> ParseTokenIds(std::string_view text) {
  if (Strip(text).empty()) {
    throw std::invalid_argument(
        "the text has no token ids; give numbers with commas between them, such as \"1,2,3\"");
  }
  const size_t count = std::count(text.begin(), text.end(), ',') + 1;
  std::vector<int32_t> ids;
  ids.reserve(count);
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string_view piece = Strip(text.substr(start, end - start));
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(piece.data(), piece.data() + piece.size(), id);
    if (error != std::errc() || stop != piece.data() + piece.size() || piece.starts_with('-')) {
      throw std::invalid_argument(StrCat("token id ", ids.size() + 1, " of ", count, " is ",
                                         Quote(piece), " (at character ", start + 1,
                                         "); it must be a number from 0 to 2147483647"));
    }
    ids.push_back(id);
    start = end + 1;
  }
  return ids;
}

std::string FormatTokenIds(std::span<const int32_t> ids) {
  std::string text;
  text.reserve(ids.size() * 6);
  char number[16];
  for (int32_t id : ids) {
    if (!text.empty()) text += ',';
    text.append(number, std::to_chars(number, number + sizeof(number), id).ptr);
  }
  return text;
}

}  // namespace sax
