// Attention at one level: new keys and values go to their pages, then tiles of up to twelve queries
// take 128 keys at a time; a tile holds all query heads of a kv head, and the rows of a group as
// long as they read the same pages.
#include "native/kernels/attention_impl.h"
#include "native/kernels/attention_tile.h"
#include "native/kernels/simd.h"

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

constexpr float kLog2E = 1.44269504f;

// Where a head's keys and values of a page are.
template <class Unit>
struct Places {
  int dims;    // units of a key
  int padded;  // units of a row of values
  size_t head_units;
  size_t page_units;
  int key_units;  // of a head's page

  explicit Places(const PageShape& s)
      : dims(s.head_dim / Unit::kCount),
        padded((s.head_dim + kLanes - 1) / kLanes * kLanes),
        key_units(s.page_size * dims) {
    head_units = key_units + static_cast<size_t>(s.page_size / Unit::kCount) * padded;
    page_units = head_units * s.kv_heads;
  }
};

// values[0..dim) turned by their position, times scale; zeros up to the next multiple of sixteen.
void Rotate(const Attention& a, const float* from, int token, float scale, float* values) {
  const int dim = a.shape.head_dim, rotary = a.rotary_dim, half = rotary / 2;
  const float* const cos = a.cos + static_cast<size_t>(token) * rotary;
  const float* const sin = a.sin + static_cast<size_t>(token) * rotary;
  int d = 0;
  if (a.rotary_style == RotaryStyle::kPairs) {
    for (; d + kLanes <= rotary; d += kLanes) {
      const F32 x = Load(from + d);
      Store(values + d, (x * Load(cos + d) + Swap1(x) * Load(sin + d)) * scale);
    }
    for (; d < rotary; ++d) values[d] = (from[d] * cos[d] + from[d ^ 1] * sin[d]) * scale;
  } else {
    for (; half % kLanes == 0 && d < rotary; d += kLanes) {
      const F32 partner = Load(from + (d < half ? d + half : d - half));
      Store(values + d, (Load(from + d) * Load(cos + d) + partner * Load(sin + d)) * scale);
    }
    for (; d < rotary; ++d) {
      values[d] = (from[d] * cos[d] + from[d < half ? d + half : d - half] * sin[d]) * scale;
    }
  }
  for (; d + kLanes <= dim; d += kLanes) Store(values + d, Load(from + d) * scale);
  for (; d < dim; ++d) values[d] = from[d] * scale;
  for (; d % kLanes != 0; ++d) values[d] = 0;
}

SAX_INLINE uint32_t Bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

// units[i * step] = unit i of values, for `dims` units.
SAX_INLINE void PutUnits(F32Unit, const float* values, int dims, uint32_t* units, size_t step) {
  for (int i = 0; i < dims; ++i) units[i * step] = Bits(values[i]);
}
SAX_INLINE void PutUnits(Bf16Unit, const float* values, int dims, uint32_t* units, size_t step) {
  for (int i = 0; i < dims; i += kLanes / 2) {
    const U16 rounded = ToBf16(Load(values + 2 * i));
    uint32_t pairs[kLanes / 2];
    __builtin_memcpy(pairs, &rounded, sizeof(pairs));
    const int count = Min(kLanes / 2, dims - i);
    for (int j = 0; j < count; ++j) units[(i + j) * step] = pairs[j];
  }
}

// A token's values. The first token of a unit clears what the unit held: whatever another request
// left there must not come into a sum, even with weight zero.
SAX_INLINE void PutValues(F32Unit, const float* values, int padded, int, uint32_t* units) {
  __builtin_memcpy(units, values, padded * sizeof(float));
}
SAX_INLINE void PutValues(Bf16Unit, const float* values, int padded, int odd, uint32_t* units) {
  for (int d = 0; d < padded; d += kLanes) {
    const U32 own = __builtin_convertvector(ToBf16(Load(values + d)), U32);
    StoreAs(units + d, odd ? (LoadAs<U32>(units + d) & 0xffff) | own << 16 : own);
  }
}

template <class Unit>
void Write(const Attention& a, const WriteJob& job) {
  const PageShape& s = a.shape;
  const Places<Unit> places(s);
  alignas(64) float values[kMaxHeadDim + kLanes];
  const int first_token =
      a.q_start[job.row] - (a.kv_len[job.row] - (a.q_start[job.row + 1] - a.q_start[job.row]));
  const int32_t page = a.page_table[static_cast<size_t>(job.row) * a.pages_per_row +
                                    job.first_position / s.page_size];
  for (int head = 0; head < s.kv_heads; ++head) {
    uint32_t* const base = a.pages + page * places.page_units + head * places.head_units;
    for (int position = job.first_position; position < job.end_position; ++position) {
      const int token = first_token + position, slot = position % s.page_size;
      const size_t from = token * a.stride + static_cast<size_t>(head) * s.head_dim;
      Rotate(a, a.key + from, token, 1, values);
      uint32_t* const keys =
          base + static_cast<size_t>(slot / kKeyLanes) * places.dims * kKeyLanes + slot % kKeyLanes;
      PutUnits(Unit{}, values, places.dims, keys, kKeyLanes);
      __builtin_memcpy(values, a.value + from, s.head_dim * sizeof(float));
      for (int d = s.head_dim; d < places.padded; ++d) values[d] = 0;
      PutValues(Unit{}, values, places.padded, slot % Unit::kCount,
                base + places.key_units + static_cast<size_t>(slot / Unit::kCount) * places.padded);
    }
  }
}

// Runs of keys of a row's pages, as they lie for one head.
template <class Unit>
struct Runs {
  const Attention& a;
  const Places<Unit>& places;
  const int32_t* table;

  void At(int head, int first, int count, const uint32_t** keys, const uint32_t** values) const {
    const int per_page = a.shape.page_size / kKeyLanes;
    for (int i = 0; i < count; ++i) {
      const int page = table[(first + i) / per_page], run = (first + i) % per_page;
      const uint32_t* const base = a.pages + page * places.page_units + head * places.head_units;
      keys[i] = base + run * kKeyLanes * places.dims;
      values[i] = base + places.key_units + run * (kKeyLanes / Unit::kCount) * places.padded;
    }
  }
};

// One query: a head of a token.
struct Query {
  int token;
  int head;
};

template <class Unit>
void PackQueries(const Attention& a, const Places<Unit>& places, const Query* queries, int count,
                 uint32_t* packed) {
  alignas(64) float values[kMaxHeadDim + kLanes];
  for (int r = 0; r < count; ++r) {
    const float* const from = a.query + queries[r].token * a.stride +
                              static_cast<size_t>(queries[r].head) * a.shape.head_dim;
    Rotate(a, from, queries[r].token, a.query_scale * kLog2E, values);
    PutUnits(Unit{}, values, places.dims, packed + r, count);
  }
}

void PutOut(const Attention& a, Query query, const float* out, float mass) {
  const int dim = a.shape.head_dim;
  const size_t place = (static_cast<size_t>(query.token) * a.heads + query.head) * dim;
  const float inverse = 1 / mass;
  if (a.out_format == Format::kF32) {
    float* const to = static_cast<float*>(a.out) + place;
    for (int d = 0; d < dim; ++d) to[d] = out[d] * inverse;
    return;
  }
  uint16_t* const to = static_cast<uint16_t*>(a.out) + place;
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) StoreBf16(to + d, Load(out + d) * inverse);
  if (d < dim) {
    const U16 rest = ToBf16(Load(out + d) * inverse);
    for (int i = 0; d + i < dim; ++i) to[d + i] = rest[i];
  }
}

// A piece of one row's tokens for one kv head: tile after tile over all keys that it sees.
template <class Unit>
void AttendPrompt(const Attention& a, const AttendJob& job) {
  const Places<Unit> places(a.shape);
  const int group = a.heads / a.shape.kv_heads, head = job.first_kv_head;
  const int first = a.q_start[job.first_row];
  const int tokens = a.q_start[job.first_row + 1] - first;
  const int before = a.kv_len[job.first_row] - tokens;
  const Runs<Unit> runs = {a, places,
                           a.page_table + static_cast<size_t>(job.first_row) * a.pages_per_row};
  const size_t query_units = static_cast<size_t>(kTile) * places.dims;
  uint32_t* const packed = static_cast<uint32_t*>(
      Scratch(Place::kPiece, 4 * (query_units + static_cast<size_t>(kTile) * places.padded + 64)));
  float* const out = reinterpret_cast<float*>(packed + (query_units + 15) / 16 * 16);
  const int all = (job.end_token - job.first_token) * group;
  for (int at = 0; at < all; at += kTile) {
    const int rows = Min(kTile, all - at);
    Query queries[kTile];
    int limit[kTile], visible[kTile];
    float top[kTile], mass[kTile];
    for (int r = 0; r < rows; ++r) {
      const int token = job.first_token + (at + r) / group;
      queries[r] = {first + token, head * group + (at + r) % group};
      limit[r] = before + token + 1;
      top[r] = kMasked;
      mass[r] = 0;
    }
    PackQueries<Unit>(a, places, queries, rows, packed);
    __builtin_memset(out, 0, sizeof(float) * rows * places.padded);
    const Tile tile = {packed, out, top, mass, rows};
    const int end = CeilDiv(limit[rows - 1], kKeyLanes);
    for (int run = 0; run < end; run += kRuns) {
      const int count = Min(kRuns, end - run);
      const uint32_t *keys[kRuns], *values[kRuns];
      runs.At(head, run, count, keys, values);
      for (int r = 0; r < rows; ++r) visible[r] = limit[r] - run * kKeyLanes;
      Take<Unit>(tile, keys, values, count, visible, places.dims, places.padded);
    }
    for (int r = 0; r < rows; ++r) PutOut(a, queries[r], out + r * places.padded, mass[r]);
  }
}

// A group of rows with one token each, for some kv heads: first the pages that all have, then each
// row's own. Keys outside, heads inside: the heads of a page lie one behind the other.
template <class Unit>
void AttendGroup(const Attention& a, const AttendJob& job) {
  const Places<Unit> places(a.shape);
  const int group = a.heads / a.shape.kv_heads, heads = job.end_kv_head - job.first_kv_head;
  const int all = job.num_rows * group;  // queries of a kv head
  const size_t query_units = static_cast<size_t>(all) * places.dims;
  const size_t out_units = static_cast<size_t>(all) * places.padded;
  // For each head: queries of the tiles over shared pages, of each row alone, sums, tops, masses.
  const size_t head_bytes = 4 * (2 * query_units + out_units + 2 * all) / 64 * 64 + 64;
  char* const memory = static_cast<char*>(Scratch(Place::kPiece, head_bytes * heads));
  const auto row_of = [&](int row) { return job.first_row + row; };
  const auto state = [&](int h, uint32_t** tiles, uint32_t** own, float** out, float** top,
                         float** mass) {
    *out = reinterpret_cast<float*>(memory + h * head_bytes);
    *tiles = reinterpret_cast<uint32_t*>(*out + out_units);
    *own = *tiles + query_units;
    *top = reinterpret_cast<float*>(*own + query_units);
    *mass = *top + all;
  };
  uint32_t *tiles, *own;
  float *out, *top, *mass;
  for (int h = 0; h < heads; ++h) {
    state(h, &tiles, &own, &out, &top, &mass);
    __builtin_memset(out, 0, out_units * sizeof(float));
    for (int i = 0; i < all; ++i) {
      top[i] = kMasked;
      mass[i] = 0;
    }
    const int head = (job.first_kv_head + h) * group;
    for (int row = 0; row < job.num_rows; ++row) {
      for (int i = 0; i < group; i += kTile) {
        Query queries[kTile];
        const int rows = Min(kTile, group - i);
        for (int r = 0; r < rows; ++r) queries[r] = {a.q_start[row_of(row)], head + i + r};
        PackQueries<Unit>(a, places, queries, rows,
                          own + static_cast<size_t>(row * group + i) * places.dims);
      }
    }
    if (job.shared_pages == 0) continue;
    for (int i = 0; i < all; i += kTile) {
      Query queries[kTile];
      const int rows = Min(kTile, all - i);
      for (int r = 0; r < rows; ++r) {
        queries[r] = {a.q_start[row_of((i + r) / group)], head + (i + r) % group};
      }
      PackQueries<Unit>(a, places, queries, rows, tiles + static_cast<size_t>(i) * places.dims);
    }
  }
  const uint32_t *keys[kRuns], *values[kRuns];
  const int per_page = a.shape.page_size / kKeyLanes, shared = job.shared_pages * per_page;
  int visible[kTile];
  for (int run = 0; run < shared; run += kRuns) {
    const int count = Min(kRuns, shared - run);
    const Runs<Unit> runs = {a, places,
                             a.page_table + static_cast<size_t>(job.first_row) * a.pages_per_row};
    for (int r = 0; r < kTile; ++r) visible[r] = count * kKeyLanes;
    for (int h = 0; h < heads; ++h) {
      state(h, &tiles, &own, &out, &top, &mass);
      runs.At(job.first_kv_head + h, run, count, keys, values);
      for (int i = 0; i < all; i += kTile) {
        const Tile tile = {tiles + static_cast<size_t>(i) * places.dims,
                           out + static_cast<size_t>(i) * places.padded, top + i, mass + i,
                           Min(kTile, all - i)};
        Take<Unit>(tile, keys, values, count, visible, places.dims, places.padded);
      }
    }
  }
  for (int row = 0; row < job.num_rows; ++row) {
    const int length = a.kv_len[row_of(row)], end = CeilDiv(length, kKeyLanes);
    const Runs<Unit> runs = {a, places,
                             a.page_table + static_cast<size_t>(row_of(row)) * a.pages_per_row};
    for (int run = shared; run < end; run += kRuns) {
      const int count = Min(kRuns, end - run);
      for (int r = 0; r < kTile; ++r) visible[r] = length - run * kKeyLanes;
      for (int h = 0; h < heads; ++h) {
        state(h, &tiles, &own, &out, &top, &mass);
        runs.At(job.first_kv_head + h, run, count, keys, values);
        for (int i = 0; i < group; i += kTile) {
          const int at = row * group + i;
          const Tile tile = {own + static_cast<size_t>(at) * places.dims,
                             out + static_cast<size_t>(at) * places.padded, top + at, mass + at,
                             Min(kTile, group - i)};
          Take<Unit>(tile, keys, values, count, visible, places.dims, places.padded);
        }
      }
    }
  }
  for (int h = 0; h < heads; ++h) {
    state(h, &tiles, &own, &out, &top, &mass);
    for (int i = 0; i < all; ++i) {
      const Query query = {a.q_start[row_of(i / group)],
                           (job.first_kv_head + h) * group + i % group};
      PutOut(a, query, out + static_cast<size_t>(i) * places.padded, mass[i]);
    }
  }
}

template <class Unit>
void Attend(const Attention& a, const AttendJob& job) {
  const int tokens = a.q_start[job.first_row + 1] - a.q_start[job.first_row];
  if (tokens > 1) {
    AttendPrompt<Unit>(a, job);
  } else {
    AttendGroup<Unit>(a, job);
  }
}

}  // namespace

void WritePiece(void* context, int index) {
  const AttentionJobs& jobs = *static_cast<AttentionJobs*>(context);
  if (jobs.attention->shape.element == Element::kF32) {
    Write<F32Unit>(*jobs.attention, jobs.writes[index]);
  } else {
    Write<Bf16Unit>(*jobs.attention, jobs.writes[index]);
  }
}

void AttendPiece(void* context, int index) {
  const AttentionJobs& jobs = *static_cast<AttentionJobs*>(context);
  if (jobs.attention->shape.element == Element::kF32) {
    Attend<F32Unit>(*jobs.attention, jobs.attends[index]);
  } else {
    Attend<Bf16Unit>(*jobs.attention, jobs.attends[index]);
  }
}

}  // namespace SAX_LEVEL
}  // namespace sax::kernels
