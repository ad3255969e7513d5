// Token ids as text: decimal numbers with commas between them, the form in which models without a
// tokenizer take prompts and give answers.
//
//   std::vector<int32_t> ids = ParseTokenIds("21106, 318,281");  // {21106, 318, 281}
//   std::string text = FormatTokenIds(ids);                      // "21106,318,281"
//   ParseTokenIds("1,x");  // throws std::invalid_argument: token id 2 of 2 is "x"; ...
#ifndef NATIVE_TEXT_TOKEN_IDS_H_
#define NATIVE_TEXT_TOKEN_IDS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sax {

// Blanks (space, tab, CR, LF) around a number are skipped. Throws std::invalid_argument that names
// the piece and its place for anything but numbers from 0 to 2^31 - 1, and for text without any.
std::vector<int32_t> ParseTokenIds(std::string_view text);

// The ids with commas between them and no blanks; "" for none.
std::string FormatTokenIds(std::span<const int32_t> ids);

}  // namespace sax

#endif  // NATIVE_TEXT_TOKEN_IDS_H_
