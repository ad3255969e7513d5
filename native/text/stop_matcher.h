// Ends a text before the first of several stop strings, wherever the pieces it arrives in are cut.
//
//   StopMatcher matcher({"END", "\n\n"});
//   matcher.Feed("a E");   // "a ": E may be the start of END
//   matcher.Feed("N.\n");  // "EN."
//   matcher.Feed("\nb");   // "", and matched() is "\n\n"
#ifndef NATIVE_TEXT_STOP_MATCHER_H_
#define NATIVE_TEXT_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sax {

// Held back is exactly the longest end of the text that is a proper prefix of some stop string: no
// byte less, or a stop string might get out, and none more. Of the stop strings in a text the one
// that is complete first counts; of those complete at the same byte, the longest. That does not
// depend on how the text is cut. If text and stop strings are valid UTF-8 and no Feed ends inside
// a character, nothing that is given does.
//
// An automaton of Aho and Corasick (Communications of the ACM 18:6, 1975): a step of constant
// amortised time for each byte, for any number of stop strings. Not thread-safe.
class StopMatcher {
 public:
  // Throws std::invalid_argument for an empty stop string.
  explicit StopMatcher(std::vector<std::string> stops);

  // The text that can be given now; "" once a stop string was found.
  std::string Feed(std::string_view text);

  // The text is over: what was held back.
  std::string Finish();

  // The stop string that was found.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  struct Node {
    std::map<char, int32_t> children;
    int32_t suffix = 0;  // node of the longest proper suffix that is a prefix of a stop string
    size_t depth = 0;
    int32_t stop = -1;  // index of the longest stop string that ends here
  };

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;
  int32_t node_ = 0;
  std::string held_;  // as long as nodes_[node_] is deep
  std::optional<std::string> matched_;

  void AddSuffixes();
  int32_t Next(int32_t node, char byte) const;
};

}  // namespace sax

#endif  // NATIVE_TEXT_STOP_MATCHER_H_
