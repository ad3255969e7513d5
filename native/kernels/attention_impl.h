// What attention.cc and attention_level.cc have in common.
#ifndef NATIVE_KERNELS_ATTENTION_IMPL_H_
#define NATIVE_KERNELS_ATTENTION_IMPL_H_

#include <cstdint>

#include "native/kernels/attention.h"

namespace sax::kernels {

inline constexpr int kKeyLanes = 16;
inline constexpr int kMaxHeadDim = 512;

// New keys and values of one row whose positions lie in one run of sixteen.
struct WriteJob {
  int row;
  int first_position;
  int end_position;
};

// Queries of neighbouring rows of the batch against their pages: one row with a piece of its
// tokens, or several rows with one token each that begin with the same pages.
struct AttendJob {
  int first_row;
  int num_rows;
  int shared_pages;  // that all of the rows begin with
  int first_token;   // of the row; if there are several, 0
  int end_token;
  int first_kv_head;
  int end_kv_head;
};

struct AttentionJobs {
  const Attention* attention;
  const WriteJob* writes;
  const AttendJob* attends;
};

// By level: piece `index` of jobs.writes or jobs.attends; jobs is an AttentionJobs.
namespace portable {
void WritePiece(void* jobs, int index);
void AttendPiece(void* jobs, int index);
}  // namespace portable
namespace avx2 {
void WritePiece(void* jobs, int index);
void AttendPiece(void* jobs, int index);
}  // namespace avx2
namespace avx512 {
void WritePiece(void* jobs, int index);
void AttendPiece(void* jobs, int index);
}  // namespace avx512
namespace avx512_bf16 {
void WritePiece(void* jobs, int index);
void AttendPiece(void* jobs, int index);
}  // namespace avx512_bf16

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_ATTENTION_IMPL_H_
