// The arguments of one forward, and what can be wrong with them.
#pragma once
#include <cstdint>
#include <string>

#include "model.h"

namespace ac {

// The arguments of ac_forward.
struct Request {
  int num_rows;
  const int32_t *tokens, *slots, *positions, *block_tables;
  int max_blocks, num_logit_rows;
  const int32_t* logit_rows;
  float* logits;
  int threads;

  const int32_t* blocks_of(int row) const { return block_tables + static_cast<int64_t>(slots[row]) * max_blocks; }
};

// What is wrong with a request, naming the row; "" when nothing is.
std::string find_problem(const AcModel& model, const Request& request);

}  // namespace ac
