// The names of a model's parameters, and where each goes.
#include "model.h"

void AcModel::name_parameters() {
  using Kind = ac::Parameter::Kind;
  const int hidden = config.hidden, width = embedding_width(), vocab = config.vocab;
  parameters["model.embed_tokens.weight"] = {Kind::embedding, vocab, width, nullptr, &head, 0, -1, false};
  if (config.embedding_width) {
    name_matrix("model.project_in", project_in, hidden, 0, -1);
    name_matrix("model.project_out", project_out, width, 0, -1);
  }
  if (config.position_rows > 0) {
    parameters["model.embed_positions.weight"] = {Kind::rows, config.position_rows, hidden, positions, nullptr, 0, -1,
                                                  false};
  }
  name_norm("model.norm", norm);
  if (config.head_bias) parameters["lm_head.bias"] = {Kind::vector, 1, vocab, nullptr, &head, 0, -1, false};
  if (!config.tied) parameters["lm_head.weight"] = {Kind::matrix, width, vocab, nullptr, &head, 0, -1, false};
  for (int i = 0; i < config.num_layers; ++i) name_layer("model.layers." + std::to_string(i) + ".", layers[i]);
}

void AcModel::name_norm(const std::string& name, const ac::Norm& norm) {
  using Kind = ac::Parameter::Kind;
  const auto vector = [&](const char* ending, float* to) {
    if (to) parameters[name + ending] = {Kind::vector, 1, config.hidden, to, nullptr, 0, -1, false};
  };
  vector(".weight", norm.weight);
  vector(".bias", norm.bias);
}

void AcModel::name_matrix(const std::string& name, ac::Matrix& to, int cols, int first, int pair) {
  using Kind = ac::Parameter::Kind;
  parameters[name + ".weight"] = {Kind::matrix, to.inputs, cols, nullptr, &to, first, pair, false};
  if (to.biases) parameters[name + ".bias"] = {Kind::vector, 1, cols, nullptr, &to, first, pair, false};
}

void AcModel::name_layer(const std::string& prefix, ac::Layer& layer) {
  using Kind = ac::Parameter::Kind;
  const int dim = config.head_dim, hidden = config.hidden;
  const int mixed = config.heads * dim, keys = config.kv_heads * dim;
  const auto vector = [&](const char* name, float* to, int size) {
    if (to) parameters[prefix + name + ".weight"] = {Kind::vector, 1, size, to, nullptr, 0, -1, false};
  };
  const auto matrix = [&](const char* name, ac::Matrix& to, int cols, int first, int pair) {
    name_matrix(prefix + name, to, cols, first, pair);
  };
  name_norm(prefix + "input_layernorm", layer.input_norm);
  name_norm(prefix + "attended_norm", layer.attended_norm);
  name_norm(prefix + "post_attention_layernorm", layer.feed_norm);
  name_norm(prefix + "fed_norm", layer.fed_norm);
  name_norm(prefix + "attended_sum_norm", layer.attended_sum_norm);
  name_norm(prefix + "fed_sum_norm", layer.fed_sum_norm);
  vector("self_attn.q_norm", layer.query_norm, norms_all_heads() ? mixed : dim);
  vector("self_attn.k_norm", layer.key_norm, norms_all_heads() ? keys : dim);
  matrix("self_attn.q_proj", layer.qkv, mixed, 0, -1);
  matrix("self_attn.k_proj", layer.qkv, keys, mixed, -1);
  matrix("self_attn.v_proj", layer.qkv, keys, mixed + keys, -1);
  matrix("self_attn.o_proj", layer.output, hidden, 0, -1);
  if (layer.has_experts) return name_experts(prefix + "mlp.", layer);
  name_feed(prefix + "mlp.", layer.feed);
}

void AcModel::name_feed(const std::string& block, ac::Feed& feed) {
  if (!config.plain_feed) name_matrix(block + "gate_proj", feed.gate_up, feed.down.inputs, 0, 0);
  name_matrix(block + "up_proj", feed.gate_up, feed.down.inputs, 0, config.plain_feed ? -1 : 1);
  name_matrix(block + "down_proj", feed.down, config.hidden, 0, -1);
}

void AcModel::name_experts(const std::string& block, ac::Layer& layer) {
  name_matrix(block + "gate", layer.router, config.experts, 0, -1);
  for (int i = 0; i < config.held_experts; ++i) {
    name_feed(block + "experts." + std::to_string(config.first_expert + i) + ".", layer.experts[i]);
  }
  if (!config.shared_inner) return;
  name_feed(block + "shared_expert.", layer.shared);
  name_matrix(block + "shared_expert_gate", layer.router, 1, config.experts, -1);
}
