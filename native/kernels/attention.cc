#include "native/kernels/attention.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "native/base/str_cat.h"
#include "native/kernels/attention_impl.h"
#include "native/kernels/level.h"
#include "native/kernels/pack.h"

namespace sax::kernels {
namespace {

// Rows of a group of decoding rows: more would not fit into the tiles of the kernel any better.
constexpr int kMaxGroup = 16;
// Tokens of a prompt's piece that are one piece of work.
constexpr int kPieceTokens = 64;
// Pieces of work that each thread should find.
constexpr int kPiecesPerThread = 4;

template <class... What>
void Require(bool good, const What&... what) {
  if (!good) throw std::invalid_argument(StrCat(what...));
}

int Tokens(const Attention& a, int row) { return a.q_start[row + 1] - a.q_start[row]; }

const int32_t* Table(const Attention& a, int row) {
  return a.page_table + static_cast<size_t>(row) * a.pages_per_row;
}

void Check(const Attention& a) {
  const PageShape& s = a.shape;
  Require(s.element == Element::kF32 || s.element == Element::kBf16,
          "pages hold float32 or bfloat16");
  Require(s.page_size > 0 && s.page_size % kKeyLanes == 0, "pages of ", s.page_size,
          " tokens; it must be a multiple of ", kKeyLanes);
  Require(s.head_dim > 0 && s.head_dim <= kMaxHeadDim && s.head_dim % UnitCount(s.element) == 0,
          "head dim ", s.head_dim, " must be a multiple of ", UnitCount(s.element), " up to ",
          kMaxHeadDim);
  Require(s.kv_heads > 0 && a.heads % s.kv_heads == 0, a.heads, " heads for ", s.kv_heads,
          " kv heads");
  Require(a.rotary_dim % 2 == 0 && a.rotary_dim <= s.head_dim, "rotary dim ", a.rotary_dim,
          " of head dim ", s.head_dim);
  Require(a.num_rows <= 0 || a.q_start[0] == 0, "the first row begins at token ", a.q_start[0],
          ", not at 0");
  for (int row = 0; row < a.num_rows; ++row) {
    const int tokens = Tokens(a, row), length = a.kv_len[row];
    Require(tokens >= 1 && tokens <= length, "row ", row, " has ", tokens, " new tokens of ",
            length);
    const int pages = (length - 1) / s.page_size + 1;
    Require(pages <= a.pages_per_row, "row ", row, " needs ", pages, " pages; its table has ",
            a.pages_per_row);
    for (int i = 0; i < pages; ++i) {
      const int page = Table(a, row)[i];
      Require(page >= 0 && page < a.num_pages, "row ", row, " has page ", page, "; there are ",
              a.num_pages);
    }
  }
}

// Full pages, from the first, that both rows have in common.
int SharedPages(const Attention& a, int row, int other) {
  const int full = std::min(a.kv_len[row], a.kv_len[other]) / a.shape.page_size;
  const int32_t* const table = Table(a, row);
  return static_cast<int>(std::mismatch(table, table + full, Table(a, other)).first - table);
}

std::vector<WriteJob> WriteJobs(const Attention& a) {
  std::vector<WriteJob> jobs;
  for (int row = 0; row < a.num_rows; ++row) {
    const int end = a.kv_len[row];
    for (int at = end - Tokens(a, row); at < end;) {
      const int next = std::min(end, (at / kKeyLanes + 1) * kKeyLanes);
      jobs.push_back({row, at, next});
      at = next;
    }
  }
  return jobs;
}

// The rows that decode, in groups that share pages: a row joins the group before it unless the
// group would lose more than half of what it shares.
std::vector<AttendJob> DecodeGroups(const Attention& a, int* row) {
  std::vector<AttendJob> groups;
  for (; *row < a.num_rows && Tokens(a, *row) == 1; ++*row) {
    if (!groups.empty() && groups.back().num_rows < kMaxGroup) {
      AttendJob& group = groups.back();
      const int shared = SharedPages(a, group.first_row, *row);
      if (shared > 0 && (group.num_rows == 1 || 2 * shared >= group.shared_pages)) {
        group.shared_pages = group.num_rows == 1 ? shared : std::min(shared, group.shared_pages);
        ++group.num_rows;
        continue;
      }
    }
    groups.push_back({*row, 1, 0, 0, 1, 0, a.shape.kv_heads});
  }
  return groups;
}

std::vector<AttendJob> AttendJobs(const Attention& a, int threads) {
  std::vector<AttendJob> jobs;
  int row = 0;
  const std::vector<AttendJob> groups = DecodeGroups(a, &row);
  // Heads of a page lie one behind the other: no more cuts among them than work needs.
  const int wanted = std::max<int>(threads * kPiecesPerThread, 1);
  const int parts = groups.empty() ? 1
                                   : std::clamp<int>(wanted / static_cast<int>(groups.size()), 1,
                                                     a.shape.kv_heads);
  for (AttendJob job : groups) {
    for (int part = 0; part < parts; ++part) {
      job.first_kv_head = a.shape.kv_heads * part / parts;
      job.end_kv_head = a.shape.kv_heads * (part + 1) / parts;
      jobs.push_back(job);
    }
  }
  for (; row < a.num_rows; ++row) {
    const int tokens = Tokens(a, row);
    for (int head = 0; head < a.shape.kv_heads; ++head) {
      for (int first = 0; first < tokens; first += kPieceTokens) {
        jobs.push_back({row, 1, 0, first, std::min(first + kPieceTokens, tokens), head, head + 1});
      }
    }
  }
  return jobs;
}

struct Kernels {
  Task write;
  Task attend;
};

Kernels KernelsOf(Level level) {
  switch (level) {
    case Level::kPortable:
      return {portable::WritePiece, portable::AttendPiece};
    case Level::kAvx2:
      return {avx2::WritePiece, avx2::AttendPiece};
    case Level::kAvx512:
      return {avx512::WritePiece, avx512::AttendPiece};
    case Level::kAvx512Bf16:
      return {avx512_bf16::WritePiece, avx512_bf16::AttendPiece};
  }
  throw std::invalid_argument("no such level");
}

}  // namespace

size_t HeadPageUnits(const PageShape& shape) {
  const int count = UnitCount(shape.element);
  const size_t keys = static_cast<size_t>(shape.page_size) * shape.head_dim / count;
  const size_t padded = (shape.head_dim + 15) / 16 * 16;
  return keys + shape.page_size / count * padded;
}

size_t PageUnits(const PageShape& shape) { return shape.kv_heads * HeadPageUnits(shape); }

void Compute(const Attention& attention, TaskRunner* runner) {
  Check(attention);
  if (attention.num_rows == 0) return;
  const auto [write, attend] = KernelsOf(CurrentLevel());
  const std::vector<WriteJob> writes = WriteJobs(attention);
  const std::vector<AttendJob> attends = AttendJobs(attention, runner->threads());
  AttentionJobs jobs = {&attention, writes.data(), attends.data()};
  const int num_writes = static_cast<int>(writes.size());
  if (num_writes <= 4) {
    for (int i = 0; i < num_writes; ++i) write(&jobs, i);
  } else {
    runner->Run(num_writes, write, &jobs);
  }
  runner->Run(static_cast<int>(attends.size()), attend, &jobs);
}

}  // namespace sax::kernels
