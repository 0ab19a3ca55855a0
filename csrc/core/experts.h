// The feed-forward block of a layer that gives each row to a few of many experts. Only the weights of chosen experts are
// read: the copies of one expert are the rows of one product, by the same kernels as every other.
#pragma once
#include <cmath>
#include <cstring>

#include "memory.h"
#include "model.h"
#include "routing.h"
#include "team.h"

namespace ac {

// Memory for one layer at a time; empty for models without experts.
struct ExpertBuffers {
  Rows scores;                  // of the router for every expert, then that of the switch
  Rows copies, gated, outputs;  // [copies]: what an expert reads, its inner numbers, what it gives
  Rows shared_gated;
  Routes routes;
};

inline Rows take_rows(Carver& carver, int64_t rows, int64_t width, bool is_narrow) {
  const int64_t stride = row_stride(width, is_narrow ? 2 : 4);
  if (is_narrow) return {nullptr, carver.take<uint16_t>(rows * stride), stride};
  return {carver.take<float>(rows * stride), nullptr, stride};
}

// `rows` from number `first` on
inline Rows from_row(Rows rows, int64_t first) {
  if (rows.wide) rows.wide += first * rows.stride;
  if (rows.narrow) rows.narrow += first * rows.stride;
  return rows;
}

inline ExpertBuffers lay_out_experts(Carver& carver, const AcModel& model, int64_t rows) {
  const AcConfig& c = model.config;
  if (c.experts == 0) return {};
  const bool narrow = model.narrow_inputs();
  const int64_t copies = rows * (c.top_k < c.held_experts ? c.top_k : c.held_experts);
  ExpertBuffers made;
  made.scores = take_rows(carver, rows, c.experts + 1, false);
  made.copies = take_rows(carver, copies, c.hidden, narrow);
  made.gated = take_rows(carver, copies, c.expert_inner, narrow);
  made.outputs = take_rows(carver, copies, c.hidden, false);
  made.shared_gated = take_rows(carver, rows, c.shared_inner, narrow);
  const size_t choices = static_cast<size_t>(rows) * c.top_k;
  made.routes = {carver.take<int32_t>(choices), carver.take<float>(choices), carver.take<int32_t>(choices),
                 carver.take<int32_t>(copies), carver.take<int32_t>(c.held_experts + 1)};
  return made;
}

class ExpertFeed {
 public:
  ExpertFeed(const AcModel& model, const Team& team, const ExpertBuffers& buffers)
      : c_(model.config), team_(team), b_(buffers) {}

  // to [rows, hidden] = what this rank adds to each of the rows `input`
  void run(const Layer& layer, const Rows& input, int num_rows, const Rows& to, const RoutesRecord& record) const {
    choose(layer, input, num_rows, record);
    copy(input);
    open(layer, input, num_rows);
    team_.wait();
    for (int i = 0; i < c_.held_experts; ++i) {
      if (const int count = copies_of(i)) close(layer.experts[i], of(b_.gated, i), count, of(b_.outputs, i));
    }
    if (c_.shared_inner > 0) close(layer.shared, b_.shared_gated, num_rows, to);
    team_.wait();
    for (int row = team_.share.begin(num_rows); row < team_.share.end(num_rows); ++row) add_up(row, to);
    team_.wait();
  }

 private:
  Rows of(const Rows& rows, int expert) const { return from_row(rows, b_.routes.first[expert]); }
  int copies_of(int expert) const { return b_.routes.first[expert + 1] - b_.routes.first[expert]; }
  float* scores_of(int row) const { return b_.scores.wide + row * b_.scores.stride; }

  void choose(const Layer& layer, const Rows& input, int num_rows, const RoutesRecord& record) const {
    team_.multiply({&layer.router, input, num_rows, b_.scores, Finish::store, c_.experts + 1});
    team_.wait();
    for (int row = team_.share.begin(num_rows); row < team_.share.end(num_rows); ++row) {
      const int at = row * c_.top_k;
      choose_experts(scores_of(row), c_.experts, c_.top_k, c_.normalises, b_.routes.experts + at,
                     b_.routes.weights + at);
      if (!record.to) continue;
      uint16_t* to = record.to + record.rows[row] * record.stride;
      for (int k = 0; k < c_.top_k; ++k) to[k] = static_cast<uint16_t>(b_.routes.experts[at + k]);
    }
    team_.wait();
    if (team_.share.index == 0) sort_copies(b_.routes, num_rows, c_.top_k, c_.first_expert, c_.held_experts);
    team_.wait();
  }

  void copy(const Rows& input) const {
    const int count = b_.routes.first[c_.held_experts];
    for (int i = team_.share.begin(count); i < team_.share.end(count); ++i) {
      const Rows from = from_row(input, b_.routes.rows[i]), to = from_row(b_.copies, i);
      if (from.narrow) {
        std::memcpy(to.narrow, from.narrow, c_.hidden * sizeof(uint16_t));
      } else {
        std::memcpy(to.wide, from.wide, c_.hidden * sizeof(float));
      }
    }
    team_.wait();
  }

  // The inner numbers of every expert that has copies, and of the shared one.
  void open(const Layer& layer, const Rows& input, int num_rows) const {
    const Activation activation = static_cast<Activation>(c_.activation);
    for (int i = 0; i < c_.held_experts; ++i) {
      if (const int count = copies_of(i)) {
        team_.multiply({&layer.experts[i].gate_up, of(b_.copies, i), count, of(b_.gated, i), Finish::gate,
                        c_.expert_inner, activation});
      }
    }
    if (c_.shared_inner > 0) {
      team_.multiply({&layer.shared.gate_up, input, num_rows, b_.shared_gated, Finish::gate, c_.shared_inner,
                      activation});
    }
  }

  void close(const Feed& feed, const Rows& gated, int num_rows, const Rows& to) const {
    team_.multiply({&feed.down, gated, num_rows, to, Finish::store, c_.hidden});
  }

  // The sum of a row's experts, the likeliest first, and of the shared one by its switch.
  void add_up(int row, const Rows& rows) const {
    float* to = rows.wide + row * rows.stride;
    const float factor = c_.shared_inner > 0 ? 1.0f / (1.0f + std::exp(-scores_of(row)[c_.experts])) : 0.0f;
    for (int i = 0; i < c_.hidden; ++i) to[i] = c_.shared_inner > 0 ? to[i] * factor : 0.0f;
    for (int k = 0; k < c_.top_k; ++k) {
      const int place = b_.routes.places[row * c_.top_k + k];
      if (place < 0) continue;
      const float weight = b_.routes.weights[row * c_.top_k + k];
      const float* from = b_.outputs.wide + place * b_.outputs.stride;
      for (int i = 0; i < c_.hidden; ++i) to[i] += weight * from[i];
    }
  }

  const AcConfig& c_;
  const Team& team_;
  const ExpertBuffers& b_;
};

}  // namespace ac
