// Checks of the rows of a forward.
#include "request.h"

namespace ac {
namespace {

std::string row_text(const Request& q, int row) {
  return "row " + std::to_string(row) + " (slot " + std::to_string(q.slots[row]) + ", position " +
         std::to_string(q.positions[row]) + ", token " + std::to_string(q.tokens[row]) + "): ";
}

std::string find_row_problem(const AcModel& model, const Request& q, int row) {
  const AcConfig& c = model.config;
  const int position = q.positions[row];
  const int64_t token = static_cast<int64_t>(q.tokens[row]) - model.first_token;
  if (!model.reduce && (token < 0 || token >= c.vocab)) return "the token is not in the vocabulary";
  if (q.slots[row] < 0) return "the slot is negative";
  if (position < 0 || position >= c.max_positions) {
    return "the position is not in 0 .. " + std::to_string(c.max_positions - 1);
  }
  const bool follows = row > 0 && q.slots[row] == q.slots[row - 1];
  if (follows && position <= q.positions[row - 1]) return "positions of a slot must ascend";
  const int last = position / c.block_tokens;
  if (last >= q.max_blocks) return "the block table has " + std::to_string(q.max_blocks) + " blocks only";
  int first = c.window > 0 && position >= c.window ? (position - c.window + 1) / c.block_tokens : 0;
  // What the row before needed is known to be good.
  if (follows && q.positions[row - 1] / c.block_tokens > first) first = q.positions[row - 1] / c.block_tokens;
  for (int i = first; i <= last; ++i) {
    const int block = q.blocks_of(row)[i];
    if (block < 0 || block >= c.num_blocks) {
      return "entry " + std::to_string(i) + " of the block table is " + std::to_string(block) + ", blocks are 0 .. " +
             std::to_string(c.num_blocks - 1);
    }
  }
  return "";
}

}  // namespace

std::string find_problem(const AcModel& model, const Request& q) {
  if (q.num_rows < 0 || q.num_logit_rows < 0 || q.max_blocks < 1 || q.threads < 1) {
    return "rows and num_logit_rows must be at least 0, max_blocks and threads at least 1";
  }
  for (int row = 0; row < q.num_rows; ++row) {
    const std::string problem = find_row_problem(model, q, row);
    if (!problem.empty()) return row_text(q, row) + problem;
  }
  for (int i = 0; i < q.num_logit_rows; ++i) {
    if (q.logit_rows[i] < 0 || q.logit_rows[i] >= q.num_rows) {
      return "logit row " + std::to_string(q.logit_rows[i]) + " is not in 0 .. " + std::to_string(q.num_rows - 1);
    }
  }
  return "";
}

}  // namespace ac
