// Choice finds the most likely tokens of each row of logits, and what their softmax is divided by,
// reading the logits twice.
//
//   Choice choice{.rows = 2, .columns = 50400, .best = 40, .logits = logits, ...};
//   Compute(choice, &runner);  // log p of the best: -log_sum[row]
#ifndef NATIVE_KERNELS_CHOICE_H_
#define NATIVE_KERNELS_CHOICE_H_

#include <cstdint>

#include "native/kernels/tasks.h"

namespace sax::kernels {

struct Choice {
  int rows = 0;
  int columns = 0;
  int best = 0;                   // how many; up to `columns`
  const float* logits = nullptr;  // [rows][columns]
  float* values = nullptr;        // [rows][best], falling; of equal ones the lower index first
  int32_t* indices = nullptr;     // [rows][best]
  float* log_sum = nullptr;       // [rows], log of the sum of exp(logit - the greatest)
};

// A row that has a NaN gets NaN as log_sum, and some of its columns as the best; every index
// is one of 0 to columns - 1. Throws std::invalid_argument for sizes that do not fit together.
void Compute(const Choice& choice, TaskRunner* runner);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_CHOICE_H_
