// UTF-8 that arrives in pieces: tokens often end inside a character, text must not.
//
//   Utf8Decoder decoder;
//   decoder.Feed("\xe6\x97");  // ""
//   decoder.Feed("\xa5");      // "日"
//   decoder.Feed("a\xf0\x9f");  // "a"
//   decoder.Finish();          // U+FFFD
#ifndef NATIVE_TEXT_UTF8_DECODER_H_
#define NATIVE_TEXT_UTF8_DECODER_H_

#include <string>
#include <string_view>

namespace sax {

// What comes out is valid UTF-8 whatever goes in, and does not depend on where the bytes were cut.
// Bytes that are not UTF-8 become U+FFFD, one for each maximal subpart (The Unicode Standard,
// section 3.9, "U+FFFD Substitution of Maximal Subparts"; the decoder of the WHATWG Encoding
// Standard, section 8.1.1, does the same). Not thread-safe.
class Utf8Decoder {
 public:
  // The characters that `bytes` complete; the start of another one is kept.
  std::string Feed(std::string_view bytes);

  // U+FFFD if a character was left incomplete, else "". Then the decoder starts afresh.
  std::string Finish();

 private:
  std::string pending_;  // the bytes of a character so far; all of them were allowed
  int missing_ = 0;      // bytes that it still needs
  // Bounds of its next byte: the second byte of some has narrower ones, so that overlong forms,
  // surrogates and what lies beyond U+10FFFF are noticed at once.
  unsigned char lowest_ = 0x80;
  unsigned char highest_ = 0xbf;

  // Takes a byte that starts a character.
  void Start(unsigned char byte, std::string& text);
};

}  // namespace sax

#endif  // NATIVE_TEXT_UTF8_DECODER_H_
