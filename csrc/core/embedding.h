// The ends of a model: from tokens to hidden states, and from hidden states to what the head reads.
#pragma once
#include <cstring>

#include "bfloat16.h"
#include "experts.h"
#include "request.h"
#include "team.h"

namespace ac {

// rows = their sum over the ranks; one thread speaks for the team.
inline void sum_over_ranks(const AcModel& model, const Team& team, const Rows& rows, int num_rows) {
  if (!model.reduce) return;
  if (team.share.index == 0) model.reduce(model.reduce_context, rows.wide, num_rows * rows.stride);
  team.wait();
}

// Rows of embeddings that are not as wide as hidden states; empty where they are. Only `read` is multiplied.
struct EmbeddingBuffers {
  Rows wide, read;
};

inline EmbeddingBuffers lay_out_embeddings(Carver& carver, const AcModel& model, int64_t rows) {
  const int width = model.config.embedding_width;
  if (width == 0) return {};
  return {take_rows(carver, rows, width, false), take_rows(carver, rows, width, model.narrow_inputs())};
}

class Embedder {
 public:
  Embedder(const AcModel& model, const Team& team, const Request& request, const EmbeddingBuffers& buffers)
      : model_(model), c_(model.config), team_(team), q_(request), b_(buffers) {}

  // Embeddings times their scale, summed over the ranks; each rank makes hidden states of them and adds the positions.
  void embed(const Rows& to) const {
    const Rows& found = c_.embedding_width ? b_.wide : to;
    look_up(found);
    team_.wait();
    sum_over_ranks(model_, team_, found, q_.num_rows);
    if (c_.embedding_width) {
      copy_to_read(q_.num_rows);
      team_.multiply({&model_.project_in, b_.read, q_.num_rows, to, Finish::store, c_.hidden});
      team_.wait();
    }
    if (c_.position_rows == 0) return;
    for (int row = team_.share.begin(q_.num_rows); row < team_.share.end(q_.num_rows); ++row) {
      const int64_t at = static_cast<int64_t>(q_.positions[row] + c_.position_offset) * c_.hidden;
      float* x = to.wide + row * to.stride;
      for (int64_t i = 0; i < c_.hidden; ++i) x[i] += model_.positions[at + i];
    }
    team_.wait();
  }

  // What the head reads of the final hidden states.
  Rows narrow_down(const Rows& hidden, int num_rows) const {
    if (c_.embedding_width == 0) return hidden;
    team_.multiply({&model_.project_out, hidden, num_rows, b_.wide, Finish::store, c_.embedding_width});
    team_.wait();
    copy_to_read(num_rows);
    return b_.read;
  }

 private:
  void look_up(const Rows& to) const {
    const int64_t width = model_.embedding_width();
    for (int row = team_.share.begin(q_.num_rows); row < team_.share.end(q_.num_rows); ++row) {
      float* x = to.wide + row * to.stride;
      const int64_t token = static_cast<int64_t>(q_.tokens[row]) - model_.first_token;
      if (token < 0 || token >= c_.vocab) {
        std::memset(x, 0, width * sizeof(float));
      } else if (model_.embeds_narrow()) {
        const uint16_t* from = reinterpret_cast<const uint16_t*>(model_.embedding) + token * width;
        for (int64_t i = 0; i < width; ++i) x[i] = widen(from[i]);
      } else {
        std::memcpy(x, reinterpret_cast<const float*>(model_.embedding) + token * width, width * sizeof(float));
      }
      if (c_.embedding_scale == 0.0f) continue;
      for (int64_t i = 0; i < width; ++i) x[i] *= c_.embedding_scale;
    }
  }

  void copy_to_read(int num_rows) const {
    for (int row = team_.share.begin(num_rows); row < team_.share.end(num_rows); ++row) {
      const float* from = b_.wide.wide + row * b_.wide.stride;
      team_.kernels.normalise(from, {nullptr, nullptr}, c_.embedding_width, 0.0f, from_row(b_.read, row));
    }
    team_.wait();
  }

  const AcModel& model_;
  const AcConfig& c_;
  const Team& team_;
  const Request& q_;
  const EmbeddingBuffers& b_;
};

}  // namespace ac
