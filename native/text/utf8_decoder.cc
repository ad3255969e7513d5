#include "native/text/utf8_decoder.h"

#include <utility>

namespace sax {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

std::string Utf8Decoder::Feed(std::string_view bytes) {
  std::string text;
  text.reserve(pending_.size() + bytes.size());
  for (const char c : bytes) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (missing_ > 0 && (byte < lowest_ || byte > highest_)) {
      text += Finish();  // and this byte may start a character
    }
    if (missing_ == 0) {
      Start(byte, text);
      continue;
    }
    pending_ += c;
    lowest_ = 0x80;
    highest_ = 0xbf;
    if (--missing_ == 0) text += std::exchange(pending_, {});
  }
  return text;
}

std::string Utf8Decoder::Finish() {
  if (missing_ == 0) return {};
  pending_.clear();
  missing_ = 0;
  lowest_ = 0x80;
  highest_ = 0xbf;
  return std::string(kReplacement);
}

void Utf8Decoder::Start(unsigned char byte, std::string& text) {
  if (byte < 0x80) {
    text += static_cast<char>(byte);
    return;
  }
  if (byte < 0xc2 || byte > 0xf4) {
    text += kReplacement;
    return;
  }
  missing_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  if (byte == 0xe0) lowest_ = 0xa0;
  if (byte == 0xed) highest_ = 0x9f;
  if (byte == 0xf0) lowest_ = 0x90;
  if (byte == 0xf4) highest_ = 0x8f;
  pending_ = static_cast<char>(byte);
}

}  // namespace sax
