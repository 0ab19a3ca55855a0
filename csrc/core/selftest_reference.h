// The logits of a small model by the definitions, in double precision, for the self-test alone.
#ifndef ALIGNMENT_SELFTEST_REFERENCE_H
#define ALIGNMENT_SELFTEST_REFERENCE_H

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "alignment_core.h"

namespace reference {

using Numbers = std::vector<double>;

class Model {
 public:
  // `weights` by name, matrices [in, out]; `angles` [tables, positions, head_dim / 2] are both cosines and sines.
  // `windows` and `rotaries` of each layer; empty: those of the configuration. `is_long`: all take the last table.
  Model(const AcConfig& config, const std::map<std::string, std::vector<float>>& weights,
        const std::vector<float>& angles, const std::vector<int32_t>& windows, const std::vector<int32_t>& rotaries,
        bool is_long)
      : c_(config), weights_(weights), angles_(angles), windows_(windows), rotaries_(rotaries), is_long_(is_long) {}

  // Logits of every one of `tokens`, the prompt's first.
  std::vector<Numbers> read(const std::vector<int32_t>& tokens) const {
    std::vector<Numbers> rows;
    for (size_t i = 0; i < tokens.size(); ++i) rows.push_back(embed(tokens[i], static_cast<int>(i)));
    for (int i = 0; i < c_.num_layers; ++i) pass_layer(i, rows);
    for (Numbers& row : rows) row = head(maybe_normalise(row, "model.norm"));
    return rows;
  }

 private:
  // The weight of this name; NULL if the model has none.
  const float* find(const std::string& name) const {
    const auto found = weights_.find(name);
    return found == weights_.end() ? nullptr : found->second.data();
  }

  Numbers embed(int token, int position) const {
    const int width = c_.embedding_width ? c_.embedding_width : c_.hidden;
    Numbers x(width);
    const float *tokens = find("model.embed_tokens.weight"), *places = find("model.embed_positions.weight");
    const size_t place = static_cast<size_t>(position + c_.position_offset) * c_.hidden;
    for (int i = 0; i < width; ++i) {
      x[i] = tokens[static_cast<size_t>(token) * width + i] * (c_.embedding_scale ? c_.embedding_scale : 1.0);
    }
    if (c_.embedding_width) x = multiply(x, "model.project_in", c_.hidden);
    for (int i = 0; places && i < c_.hidden; ++i) x[i] += places[place + i];
    return x;
  }

  Numbers normalise(Numbers x, const std::string& name, bool subtracts = true) const {
    const float *scales = find(name + ".weight"), *biases = find(name + ".bias");
    double mean = 0.0, square = 0.0;
    for (double number : x) mean += c_.layer_norm && subtracts ? number / x.size() : 0.0;
    for (double& number : x) number -= mean;
    for (double number : x) square += number * number / x.size();
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = x[i] / std::sqrt(square + c_.rms_eps) * scales[i] + (biases ? biases[i] : 0.0f);
    }
    return x;
  }

  // x unless the layer has no such norm
  Numbers maybe_normalise(const Numbers& x, const std::string& name) const {
    return find(name + ".weight") ? normalise(x, name) : x;
  }

  Numbers multiply(const Numbers& x, const std::string& name, int width) const {
    const float *weights = find(name + ".weight"), *biases = find(name + ".bias");
    Numbers y(width);
    for (int j = 0; j < width; ++j) {
      if (biases) y[j] = biases[j];
      for (size_t i = 0; i < x.size(); ++i) y[j] += x[i] * weights[i * width + j];
    }
    return y;
  }

  Numbers head(const Numbers& hidden) const {
    const Numbers x = c_.embedding_width ? multiply(hidden, "model.project_out", c_.embedding_width) : hidden;
    const float* weights = find(c_.tied ? "model.embed_tokens.weight" : "lm_head.weight");
    const size_t width = x.size(), across = c_.tied ? width : 1, down = c_.tied ? 1 : c_.vocab;
    Numbers y(c_.vocab);
    for (int j = 0; j < c_.vocab; ++j) {
      for (size_t i = 0; i < width; ++i) y[j] += x[i] * weights[j * across + i * down];
      if (c_.head_bias) y[j] += find("lm_head.bias")[j];
      y[j] = cap(y[j], c_.logit_cap);
    }
    return y;
  }

  static double cap(double x, double most) { return most > 0.0 ? most * std::tanh(x / most) : x; }

  double activate(double x) const {
    switch (c_.activation) {
      case AC_RELU: return std::max(x, 0.0);
      case AC_GELU: return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
      case AC_GELU_TANH: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
      default: return x / (1.0 + std::exp(-x));
    }
  }

  // Heads of one row, normalised and rotated.
  std::vector<Numbers> turn(Numbers row, const std::string& norm, int layer, int position) const {
    std::vector<Numbers> heads;
    const int half = c_.head_dim / 2, table = is_long_ ? c_.rotary_tables - 1 : rotaries_.empty() ? 0 : rotaries_[layer];
    if (c_.qk_norm == 2) row = normalise(row, norm, false);
    for (size_t at = 0; at < row.size(); at += c_.head_dim) {
      Numbers x(row.begin() + at, row.begin() + at + c_.head_dim);
      if (c_.qk_norm == 1) x = normalise(x, norm, false);
      for (int i = 0; i < half; ++i) {
        const size_t at_angle = (static_cast<size_t>(table) * c_.max_positions + position) * half + i;
        const double angle = angles_[at_angle], a = x[i], b = x[i + half];
        x[i] = a * angle - b * angle;
        x[i + half] = b * angle + a * angle;
      }
      heads.push_back(x);
    }
    return heads;
  }

  struct Row {
    std::vector<Numbers> queries, keys;
    Numbers values;
  };

  // What the row at `position` reads of `rows`.
  Numbers attend(const std::vector<Row>& rows, int layer, int position) const {
    Numbers mixed(c_.heads * c_.head_dim);
    const int window = windows_.empty() ? c_.window : windows_[layer];
    const int first = window ? std::max(0, position - window + 1) : 0;
    const double scale = c_.attention_scale ? c_.attention_scale : 1.0 / std::sqrt(static_cast<double>(c_.head_dim));
    for (int head = 0; head < c_.heads; ++head) {
      const int of = head / (c_.heads / c_.kv_heads);
      Numbers shares;
      double total = 0.0;
      for (int i = first; i <= position; ++i) {
        double score = 0.0;
        for (int d = 0; d < c_.head_dim; ++d) score += rows[position].queries[head][d] * rows[i].keys[of][d];
        shares.push_back(std::exp(cap(score * scale, c_.attention_cap)));
        total += shares.back();
      }
      for (int i = first; i <= position; ++i) {
        for (int d = 0; d < c_.head_dim; ++d) {
          mixed[head * c_.head_dim + d] += shares[i - first] / total * rows[i].values[of * c_.head_dim + d];
        }
      }
    }
    return mixed;
  }

  void pass_layer(int number, std::vector<Numbers>& residual) const {
    const std::string layer = "model.layers." + std::to_string(number) + ".";
    const std::string attention = layer + "self_attn.";
    const int keys = c_.kv_heads * c_.head_dim, count = static_cast<int>(residual.size());
    std::vector<Row> rows;
    for (int i = 0; i < count; ++i) {
      const Numbers x = maybe_normalise(residual[i], layer + "input_layernorm");
      rows.push_back({turn(multiply(x, attention + "q_proj", c_.heads * c_.head_dim), attention + "q_norm", number, i),
                      turn(multiply(x, attention + "k_proj", keys), attention + "k_norm", number, i),
                      multiply(x, attention + "v_proj", keys)});
    }
    for (int i = 0; i < count; ++i) {
      const Numbers before = residual[i];
      add(residual[i], multiply(attend(rows, number, i), attention + "o_proj", c_.hidden), layer + "attended_norm");
      residual[i] = maybe_normalise(residual[i], layer + "attended_sum_norm");
      const std::string norm = layer + (c_.no_feed_norm ? "input_layernorm" : "post_attention_layernorm");
      const Numbers fed = feed(maybe_normalise(c_.parallel ? before : residual[i], norm), layer + "mlp.", c_.inner);
      add(residual[i], fed, layer + "fed_norm");
      residual[i] = maybe_normalise(residual[i], layer + "fed_sum_norm");
    }
  }

  Numbers feed(const Numbers& x, const std::string& block, int inner) const {
    if (find(block + "gate.weight")) return choose(x, block);
    Numbers up = multiply(x, block + "up_proj", inner);
    const Numbers gate = c_.plain_feed ? up : multiply(x, block + "gate_proj", inner);
    for (int i = 0; i < inner; ++i) up[i] = activate(gate[i]) * (c_.plain_feed ? 1.0 : up[i]);
    return multiply(up, block + "down_proj", c_.hidden);
  }

  // The sum of the likeliest experts, and of the shared one.
  Numbers choose(const Numbers& x, const std::string& block) const {
    std::vector<std::pair<double, int>> chances;
    Numbers sum(c_.hidden), scores = multiply(x, block + "gate", c_.experts);
    double total = 0.0, of_chosen = 0.0;
    for (double& score : scores) total += score = std::exp(score);
    for (int i = 0; i < c_.experts; ++i) chances.push_back({scores[i] / total, i});
    std::sort(chances.rbegin(), chances.rend());
    for (int k = 0; k < c_.top_k; ++k) of_chosen += chances[k].first;
    const auto add_up = [&](double weight, const std::string& name, int inner) {
      const Numbers y = feed(x, block + name + ".", inner);
      for (int i = 0; i < c_.hidden; ++i) sum[i] += weight * y[i];
    };
    for (int k = 0; k < c_.top_k; ++k) {
      const auto [chance, number] = chances[k];
      add_up(chance / (c_.normalises ? of_chosen : 1.0), "experts." + std::to_string(number), c_.expert_inner);
    }
    if (!c_.shared_inner) return sum;
    add_up(1.0 / (1.0 + std::exp(-multiply(x, block + "shared_expert_gate", 1)[0])), "shared_expert", c_.shared_inner);
    return sum;
  }

  void add(Numbers& to, const Numbers& x, const std::string& norm) const {
    const Numbers change = maybe_normalise(x, norm);
    for (size_t i = 0; i < to.size(); ++i) to[i] += change[i];
  }

  AcConfig c_;
  const std::map<std::string, std::vector<float>>& weights_;
  const std::vector<float>& angles_;
  const std::vector<int32_t>&windows_, &rotaries_;
  bool is_long_;
};

}  // namespace reference

#endif
