// Attention over pages of keys and values: rows of different lengths in one call, some with a
// piece of prompt, some with one token. New keys and values are rotated and written to their
// pages first. Rows that share pages from their beginning, as beams do, read these once.
//
//   const PageShape shape = {.kv_heads = 8, .head_dim = 64, .page_size = 16, .element =
//   Element::kBf16}; std::vector<uint32_t> layer(num_pages * PageUnits(shape)); Compute(attention,
//   &runner);
#ifndef NATIVE_KERNELS_ATTENTION_H_
#define NATIVE_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "native/kernels/linear.h"
#include "native/kernels/tasks.h"

namespace sax::kernels {

// One page of one layer: for each kv head its keys, [page_size / 16][head_dim / count][16] units of
// `count` neighbouring dims, then its values, [page_size / count][head_dim] units of `count`
// neighbouring tokens, head_dim rounded up to 16. A unit has 32 bits, see pack.h.
struct PageShape {
  int kv_heads = 0;
  int head_dim = 0;                 // a multiple of `count`
  int page_size = 0;                // tokens; a multiple of 16
  Element element = Element::kF32;  // or kBf16
};

// Units of 32 bits of a page for one head, and for all.
size_t HeadPageUnits(const PageShape& shape);
size_t PageUnits(const PageShape& shape);

enum class RotaryStyle {
  kPairs,   // dims (2i, 2i + 1) are turned together
  kHalves,  // dims (i, i + rotary_dim / 2)
};

// T tokens in R rows, one row after the other, those with one token that decode first.
struct Attention {
  PageShape shape;
  int heads = 0;  // a multiple of kv_heads; head h reads kv head h / (heads / kv_heads)
  int num_rows = 0;
  int pages_per_row = 0;  // of page_table
  int num_pages = 0;
  float query_scale = 1;
  // f32[T][stride]; heads or kv heads one after the other.
  const float* query = nullptr;
  const float* key = nullptr;
  const float* value = nullptr;
  size_t stride = 0;
  // f32[T][rotary_dim]: dim d becomes d * cos + partner * sin, the sign being in sin.
  int rotary_dim = 0;
  RotaryStyle rotary_style = RotaryStyle::kPairs;
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* q_start = nullptr;     // [num_rows + 1], the first token of each row
  const int32_t* kv_len = nullptr;      // [num_rows], tokens in the pages after this call
  const int32_t* page_table = nullptr;  // [num_rows][pages_per_row]
  uint32_t* pages = nullptr;            // [num_pages][PageUnits]
  void* out = nullptr;                  // [T][heads * head_dim]
  Format out_format = Format::kF32;
};

// Safe from several threads at once on different pages. Throws std::invalid_argument for sizes that
// do not fit together and for pages that there are not.
void Compute(const Attention& attention, TaskRunner* runner);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_ATTENTION_H_
