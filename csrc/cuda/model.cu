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

acu::Matrix AcuModel::lay_out_matrix(acu::Carver& carver, int64_t inputs, int64_t outputs) {
  if (!has_bytes()) return {carver.take<char>(inputs * outputs * (embeds_narrow() ? 2 : 4)), {}};
  int8_t* numbers = carver.take<int8_t>(acu::byte_pitch(inputs) * outputs);
  return {nullptr, {numbers, carver.take<float>(outputs)}};
}

void AcuModel::lay_out(acu::Carver& carver) {
  const int64_t number = embeds_narrow() ? 2 : 4, vocab = config.vocab, hidden = config.hidden;
  const int64_t angles = static_cast<int64_t>(config.max_positions) * (config.head_dim / 2);
  embedding = carver.take<char>(vocab * hidden * number);
  head = config.tied && !has_bytes() ? acu::Matrix{embedding, {}} : lay_out_matrix(carver, hidden, vocab);
  norm = carver.take<float>(hidden);
  cosines = carver.take<float>(angles);
  sines = carver.take<float>(angles);
  for (acu::Layer& layer : layers) lay_out_layer(carver, layer);
  lay_out_scratch(carver);
}

void AcuModel::lay_out_layer(acu::Carver& carver, acu::Layer& layer) {
  const int64_t hidden = config.hidden, inner = config.inner;
  const auto vector_if = [&](bool exists, int64_t size) { return exists ? carver.take<float>(size) : nullptr; };
  layer.input_norm = carver.take<float>(hidden);
  layer.feed_norm = carver.take<float>(hidden);
  layer.query_norm = vector_if(config.qk_norm, config.head_dim);
  layer.key_norm = vector_if(config.qk_norm, config.head_dim);
  layer.qkv_bias = vector_if(config.qkv_bias, qkv_width());
  layer.output_bias = vector_if(config.output_bias, hidden);
  layer.gate_up_bias = vector_if(config.mlp_bias, 2 * inner);
  layer.down_bias = vector_if(config.mlp_bias, hidden);
  layer.qkv = lay_out_matrix(carver, hidden, qkv_width());
  layer.output = lay_out_matrix(carver, mixed_width(), hidden);
  layer.gate_up = lay_out_matrix(carver, hidden, 2 * inner);
  layer.down = lay_out_matrix(carver, inner, hidden);
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
  const acu::ByteMatrix tied = config.tied ? head.bytes : acu::ByteMatrix{};
  parameters["model.embed_tokens.weight"] = {vocab, hidden, embedding, tied, embeds_narrow(), false};
  name_vector("model.norm.weight", norm, hidden);
  if (!config.tied) name_matrix("lm_head.weight", head, hidden, vocab);
  for (int i = 0; i < config.num_layers; ++i) name_layer("model.layers." + std::to_string(i) + ".", layers[i]);
}

void AcuModel::name_vector(const std::string& name, float* to, int64_t size) {
  if (to) parameters[name] = {1, size, to, {}, false, false};
}

// Outputs first_output .. of a matrix whose outputs are those of several parameters.
void AcuModel::name_matrix(const std::string& name, const acu::Matrix& to, int64_t inputs, int64_t outputs,
                           int64_t first_output) {
  acu::Parameter& named = parameters[name] = {inputs, outputs, nullptr, {}, embeds_narrow(), true};
  if (has_bytes()) {
    const int64_t first = first_output * acu::byte_pitch(inputs);
    named.bytes = {to.bytes.numbers + first, to.bytes.scales + first_output};
  } else {
    named.to = to.numbers + first_output * inputs * (embeds_narrow() ? 2 : 4);
  }
}

void AcuModel::name_layer(const std::string& prefix, const acu::Layer& layer) {
  const int64_t hidden = config.hidden, inner = config.inner, dim = config.head_dim;
  const int64_t mixed = mixed_width(), keys = config.kv_heads * dim;
  const auto matrix = [&](const std::string& name, const acu::Matrix& to, float* bias, int64_t inputs,
                          int64_t outputs, int64_t first) {
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
