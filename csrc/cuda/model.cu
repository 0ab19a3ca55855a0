// Sizes, memory and parameter names of a model.
#include "model.h"

namespace {

constexpr int64_t KV_BYTES[] = {4, 2};

}  // namespace

AcuModel::AcuModel(const AcConfig& given, const AcuLimits& given_limits)
    : config(given), limits(given_limits),
      shape{given.block_tokens, given.kv_heads, given.head_dim,
            static_cast<int>(acu::PACKET_BYTES / KV_BYTES[given.kv_type])},
      layers(given.num_layers) {}

AcuModel::~AcuModel() {
  if (arena_) cudaFree(arena_);
  if (pool) cudaFree(pool);
}

bool AcuModel::take_memory() {
  acu::Carver counter(nullptr);
  lay_out(counter);
  arena_bytes_ = counter.used();
  if (cudaMalloc(&arena_, arena_bytes_) != cudaSuccess || cudaMalloc(&pool, pool_bytes()) != cudaSuccess) {
    cudaGetLastError();  // forget it
    return false;
  }
  acu::Carver carver(arena_);
  lay_out(carver);
  name_parameters();
  return true;
}

void AcuModel::lay_out(acu::Carver& carver) {
  const int64_t number = is_narrow() ? 2 : 4, vocab = config.vocab, hidden = config.hidden;
  const int64_t angles = static_cast<int64_t>(config.max_positions) * (config.head_dim / 2);
  embedding = carver.take<char>(vocab * hidden * number);
  head = config.tied ? embedding : carver.take<char>(vocab * hidden * number);
  norm = carver.take<float>(hidden);
  cosines = carver.take<float>(angles);
  sines = carver.take<float>(angles);
  for (acu::Layer& layer : layers) lay_out_layer(carver, layer);
  lay_out_scratch(carver);
}

void AcuModel::lay_out_layer(acu::Carver& carver, acu::Layer& layer) {
  const int64_t number = is_narrow() ? 2 : 4, hidden = config.hidden, inner = config.inner;
  const auto vector_if = [&](bool exists, int64_t size) { return exists ? carver.take<float>(size) : nullptr; };
  layer.input_norm = carver.take<float>(hidden);
  layer.feed_norm = carver.take<float>(hidden);
  layer.query_norm = vector_if(config.qk_norm, config.head_dim);
  layer.key_norm = vector_if(config.qk_norm, config.head_dim);
  layer.qkv_bias = vector_if(config.qkv_bias, qkv_width());
  layer.output_bias = vector_if(config.output_bias, hidden);
  layer.gate_up_bias = vector_if(config.mlp_bias, 2 * inner);
  layer.down_bias = vector_if(config.mlp_bias, hidden);
  layer.qkv = carver.take<char>(hidden * qkv_width() * number);
  layer.output = carver.take<char>(hidden * mixed_width() * number);
  layer.gate_up = carver.take<char>(hidden * 2 * inner * number);
  layer.down = carver.take<char>(hidden * inner * number);
}

void AcuModel::lay_out_scratch(acu::Carver& carver) {
  const int64_t rows = limits.max_rows, hidden = config.hidden, inner = config.inner;
  const int64_t normed_rows = acu::larger(limits.max_rows, limits.max_logit_rows);
  const auto activations = [&](int64_t count) {
    return is_narrow() ? acu::Activations{nullptr, carver.take<acu::Bf16>(count)}
                       : acu::Activations{carver.take<float>(count), nullptr};
  };
  scratch.residual = carver.take<float>(rows * hidden);
  scratch.partial = carver.take<float>(rows * hidden);
  scratch.qkv = carver.take<float>(rows * qkv_width());
  scratch.gate_up = carver.take<float>(rows * 2 * inner);
  scratch.normed = activations(normed_rows * hidden);
  scratch.mixed = activations(rows * mixed_width());
  scratch.gated = activations(rows * inner);
  scratch.split = carver.take<float>(
      acu::partial_floats(limits.max_decode_rows, config.heads, config.head_dim, config.max_positions));
}

void AcuModel::name_parameters() {
  const int64_t hidden = config.hidden, vocab = config.vocab;
  parameters["model.embed_tokens.weight"] = {vocab, hidden, embedding, is_narrow(), false};
  name_vector("model.norm.weight", norm, hidden);
  if (!config.tied) name_matrix("lm_head.weight", head, hidden, vocab);
  for (int i = 0; i < config.num_layers; ++i) name_layer("model.layers." + std::to_string(i) + ".", layers[i]);
}

void AcuModel::name_vector(const std::string& name, float* to, int64_t size) {
  if (to) parameters[name] = {1, size, to, false, false};
}

// Outputs first_output .. of a matrix whose outputs are those of several parameters.
void AcuModel::name_matrix(const std::string& name, char* to, int64_t inputs, int64_t outputs, int64_t first_output) {
  parameters[name] = {inputs, outputs, to + first_output * inputs * (is_narrow() ? 2 : 4), is_narrow(), true};
}

void AcuModel::name_layer(const std::string& prefix, const acu::Layer& layer) {
  const int64_t hidden = config.hidden, inner = config.inner, dim = config.head_dim;
  const int64_t mixed = mixed_width(), keys = config.kv_heads * dim;
  const auto matrix = [&](const std::string& name, char* to, float* bias, int64_t inputs, int64_t outputs,
                          int64_t first) {
    name_matrix(prefix + name + ".weight", to, inputs, outputs, first);
    name_vector(prefix + name + ".bias", bias ? bias + first : nullptr, outputs);
  };
  name_vector(prefix + "input_layernorm.weight", layer.input_norm, hidden);
  name_vector(prefix + "post_attention_layernorm.weight", layer.feed_norm, hidden);
  name_vector(prefix + "self_attn.q_norm.weight", layer.query_norm, dim);
  name_vector(prefix + "self_attn.k_norm.weight", layer.key_norm, dim);
  matrix("self_attn.q_proj", layer.qkv, layer.qkv_bias, hidden, mixed, 0);
  matrix("self_attn.k_proj", layer.qkv, layer.qkv_bias, hidden, keys, mixed);
  matrix("self_attn.v_proj", layer.qkv, layer.qkv_bias, hidden, keys, mixed + keys);
  matrix("self_attn.o_proj", layer.output, layer.output_bias, mixed, hidden, 0);
  matrix("mlp.gate_proj", layer.gate_up, layer.gate_up_bias, hidden, inner, 0);
  matrix("mlp.up_proj", layer.gate_up, layer.gate_up_bias, hidden, inner, inner);
  matrix("mlp.down_proj", layer.down, layer.down_bias, inner, hidden, 0);
}
