// Creation of a model: sizes and memory layout.
#include "model.h"

#include <cstring>
#include <new>

#include "errors.h"

namespace ac {
namespace {

constexpr int64_t BYTES_OF_WEIGHT[] = {4, 2, 1};

Matrix lay_out_matrix(Carver& carver, const AcModel& model, int inputs, int num_panels, bool has_bias,
                      WeightType type) {
  const int panel = model.kernels->panel;
  Matrix made{};
  made.type = type;
  made.inputs = inputs;
  made.num_panels = num_panels;
  made.panel_bytes = static_cast<size_t>(inputs) * panel * BYTES_OF_WEIGHT[static_cast<int>(type)];
  made.data = carver.take<char>(made.panel_bytes * num_panels);
  if (made.type == WeightType::int8) made.scales = carver.take<float>(static_cast<size_t>(num_panels) * panel);
  if (has_bias) made.biases = carver.take<float>(static_cast<size_t>(num_panels) * panel);
  return made;
}

Matrix lay_out_matrix(Carver& carver, const AcModel& model, int inputs, int num_panels, bool has_bias) {
  const WeightType type = static_cast<WeightType>(model.config.weight_type);
  return lay_out_matrix(carver, model, inputs, num_panels, has_bias, type);
}

int64_t value_stride(const AcConfig& config) { return (config.head_dim + 15) / 16 * 16; }

int64_t block_bytes(const AcConfig& config) {
  const int64_t numbers = config.head_dim + value_stride(config);
  return numbers * config.kv_heads * config.block_tokens * (config.kv_type == AC_BF16 ? 2 : 4);
}

struct Limit {
  const char* name;
  int32_t value, low, high;
};

// What is wrong with a configuration, "" when nothing is.
std::string find_problem(const AcConfig& c) {
  constexpr int32_t ANY = 1 << 30;
  const Limit limits[] = {
      {"num_layers", c.num_layers, 1, ANY},   {"hidden", c.hidden, 2, ANY},
      {"inner", c.inner, c.experts && !c.dense_layers ? 0 : 2, ANY},
      {"experts", c.experts, 0, 1 << 16},     {"top_k", c.top_k, c.experts ? 1 : 0, c.experts},
      {"expert_inner", c.expert_inner, c.experts ? 2 : 0, ANY}, {"shared_inner", c.shared_inner, 0, ANY},
      {"first_expert", c.first_expert, 0, c.experts},
      {"held_experts", c.held_experts, c.experts ? 1 : 0, c.experts - c.first_expert},
      {"heads", c.heads, 1, ANY},             {"kv_heads", c.kv_heads, 1, ANY},     {"head_dim", c.head_dim, 2, ANY},
      {"vocab", c.vocab, 1, ANY},             {"window", c.window, 0, ANY},
      {"activation", c.activation, 0, 3},     {"position_rows", c.position_rows, 0, ANY},
      {"embedding_width", c.embedding_width, 0, ANY},
      {"position_offset", c.position_offset, 0, ANY}, {"qk_norm", c.qk_norm, 0, 2},
      {"rotary_tables", c.rotary_tables, 0, 16},
      {"weight_type", c.weight_type, 0, 2},   {"kv_type", c.kv_type, 0, 1},
      {"block_tokens", c.block_tokens, 16, ANY}, {"num_blocks", c.num_blocks, 1, ANY},
      {"max_positions", c.max_positions, 1, ANY},
  };
  for (const Limit& limit : limits) {
    if (limit.value < limit.low || limit.value > limit.high) {
      return std::string(limit.name) + " " + std::to_string(limit.value) + " is not in " + std::to_string(limit.low) +
             " .. " + std::to_string(limit.high);
    }
  }
  if (c.heads % c.kv_heads) {
    return "heads " + std::to_string(c.heads) + " is no multiple of kv_heads " + std::to_string(c.kv_heads);
  }
  if (c.block_tokens % TOKEN_GROUP) return "block_tokens " + std::to_string(c.block_tokens) + " is no multiple of 16";
  if (c.position_rows > 0 && c.max_positions > c.position_rows - c.position_offset) {
    return "max_positions " + std::to_string(c.max_positions) + " is more than position_rows has";
  }
  if (c.experts && (c.plain_feed || c.mlp_bias)) return "experts have a gate and no biases";
  if (c.parallel && c.sum_norms) return "parallel blocks have no sum_norms";
  if (c.hidden % 2 || c.inner % 2 || c.head_dim % 2) return "hidden, inner and head_dim must be even";
  if (c.expert_inner % 2 || c.shared_inner % 2 || c.embedding_width % 2) {
    return "expert_inner, shared_inner and embedding_width must be even";
  }
  return "";
}

}  // namespace
}  // namespace ac

AcModel::AcModel(const AcConfig& given)
    : config(given),
      kernels(ac::current_kernels()),
      layers(given.num_layers),
      windows(given.num_layers, given.window),
      rotaries(given.num_layers, 0) {
  for (int i = 0; i < config.num_layers; ++i) {
    layers[i].has_experts = config.experts > 0 && !(given.dense_layers && given.dense_layers[i]);
  }
  config.dense_layers = nullptr;
  ac::Carver counter(nullptr);
  lay_out(counter);
  weights = ac::Memory(counter.used());
  ac::Carver carver(weights.data());
  lay_out(carver);
  pool = ac::Memory(static_cast<size_t>(ac::block_bytes(config)) * config.num_blocks * config.num_layers);
  name_parameters();
}

void AcModel::lay_out(ac::Carver& carver) {
  const auto panels = [this](int outputs) { return (outputs + kernels->panel - 1) / kernels->panel; };
  const int width = embedding_width();
  const size_t numbers = static_cast<size_t>(config.vocab) * width;
  embedding = carver.take<char>(numbers * (embeds_narrow() ? 2 : 4));
  cosines = carver.take<float>(angles() * rotary_tables());
  sines = carver.take<float>(angles() * rotary_tables());
  for (ac::Layer& layer : layers) lay_out_layer(carver, layer);
  norm = lay_out_norm(carver, !config.sum_norms);
  positions = carver.take<float>(static_cast<size_t>(config.position_rows) * config.hidden);
  if (config.embedding_width) {
    project_in = ac::lay_out_matrix(carver, *this, width, panels(config.hidden), false);
    project_out = ac::lay_out_matrix(carver, *this, config.hidden, panels(width), false);
  }
  head = ac::lay_out_matrix(carver, *this, width, panels(config.vocab), config.head_bias);
}

ac::Norm AcModel::lay_out_norm(ac::Carver& carver, bool exists) {
  if (!exists) return {nullptr, nullptr};
  float* weight = carver.take<float>(config.hidden);
  return {weight, config.layer_norm ? carver.take<float>(config.hidden) : nullptr};
}

void AcModel::lay_out_layer(ac::Carver& carver, ac::Layer& layer) {
  const auto panels = [this](int outputs) { return (outputs + kernels->panel - 1) / kernels->panel; };
  const int dim = config.head_dim, mixed = config.heads * dim, projected = mixed + 2 * config.kv_heads * dim;
  const bool norms_inputs = !config.no_pre_norms && !config.sum_norms;
  layer.input_norm = lay_out_norm(carver, norms_inputs);
  layer.attended_norm = lay_out_norm(carver, config.post_norms);
  layer.fed_norm = lay_out_norm(carver, config.post_norms);
  layer.attended_sum_norm = lay_out_norm(carver, config.sum_norms);
  layer.fed_sum_norm = lay_out_norm(carver, config.sum_norms);
  layer.qkv = ac::lay_out_matrix(carver, *this, config.hidden, panels(projected), config.qkv_bias);
  layer.query_norm = config.qk_norm ? carver.take<float>(norms_all_heads() ? mixed : dim) : nullptr;
  layer.key_norm = config.qk_norm ? carver.take<float>(norms_all_heads() ? config.kv_heads * dim : dim) : nullptr;
  layer.output = ac::lay_out_matrix(carver, *this, mixed, panels(config.hidden), config.output_bias);
  layer.feed_norm = lay_out_norm(carver, norms_inputs && !config.no_feed_norm);
  lay_out_feed(carver, layer);
}

void AcModel::lay_out_feed(ac::Carver& carver, ac::Layer& layer) {
  const auto panels = [this](int outputs) { return (outputs + kernels->panel - 1) / kernels->panel; };
  const auto feed = [&](int inner) {
    const int halves = config.plain_feed ? 1 : 2;
    const ac::Matrix in =
        ac::lay_out_matrix(carver, *this, config.hidden, halves * panels(inner), config.mlp_bias);
    return ac::Feed{in, ac::lay_out_matrix(carver, *this, inner, panels(config.hidden), config.mlp_bias)};
  };
  if (!layer.has_experts) {
    layer.feed = feed(config.inner);
    return;
  }
  // Bytes are too coarse for a choice.
  const ac::WeightType type = config.weight_type == AC_WEIGHT_BF16 ? ac::WeightType::bf16 : ac::WeightType::f32;
  layer.router = ac::lay_out_matrix(carver, *this, config.hidden, panels(config.experts + 1), false, type);
  layer.experts.resize(config.held_experts);
  for (ac::Feed& expert : layer.experts) expert = feed(config.expert_inner);
  if (config.shared_inner) layer.shared = feed(config.shared_inner);
}

ac::Cache AcModel::cache(int layer) const {
  const int64_t bytes = ac::block_bytes(config);
  return {pool.data() + bytes * config.num_blocks * layer, bytes, config.kv_type == AC_BF16, config.block_tokens,
          config.kv_heads, config.head_dim, static_cast<int>(ac::value_stride(config))};
}

extern "C" {

AcModel* ac_model_create(const AcConfig* config) {
  if (!config || config->struct_bytes != static_cast<int32_t>(sizeof(AcConfig))) {
    ac::fail(AC_BAD_ARGUMENT, "AcConfig is not the one of this library: struct_bytes must be " +
                                  std::to_string(sizeof(AcConfig)));
    return nullptr;
  }
  const std::string problem = ac::find_problem(*config);
  if (!problem.empty()) {
    ac::fail(AC_BAD_ARGUMENT, problem);
    return nullptr;
  }
  try {
    return new AcModel(*config);
  } catch (const std::bad_alloc&) {
    ac::fail(AC_NO_MEMORY, "no memory for the weights and the key/value pool of the model");
    return nullptr;
  }
}

void ac_model_destroy(AcModel* model) { delete model; }

int64_t ac_model_bytes(const AcModel* model) {
  return static_cast<int64_t>(model->weights.bytes() + model->pool.bytes());
}

int64_t ac_model_bytes_read(const AcModel* model) { return model->bytes_read; }

int32_t ac_copy_block(AcModel* model, int32_t source, int32_t target) {
  const int32_t count = model->config.num_blocks;
  if (source < 0 || source >= count || target < 0 || target >= count) {
    return ac::fail(AC_BAD_ARGUMENT, "copy of block " + std::to_string(source) + " to " + std::to_string(target) +
                                         ": blocks are 0 .. " + std::to_string(count - 1));
  }
  for (int layer = 0; layer < model->config.num_layers; ++layer) {
    const ac::Cache cache = model->cache(layer);
    std::memmove(cache.base + target * cache.block_bytes, cache.base + source * cache.block_bytes, cache.block_bytes);
  }
  return AC_OK;
}

int32_t ac_model_set_layers(AcModel* model, const int32_t* windows, const int32_t* rotaries) {
  const int32_t count = model->config.num_layers, tables = model->rotary_tables();
  for (int32_t i = 0; i < count; ++i) {
    if (windows[i] < 0 || rotaries[i] < 0 || rotaries[i] >= tables) {
      return ac::fail(AC_BAD_ARGUMENT, "layer " + std::to_string(i) + " has window " + std::to_string(windows[i]) +
                                           " and rotary table " + std::to_string(rotaries[i]) + " of " +
                                           std::to_string(tables));
    }
  }
  model->windows.assign(windows, windows + count);
  model->rotaries.assign(rotaries, rotaries + count);
  return AC_OK;
}

int32_t ac_model_set_long_slots(AcModel* model, const uint8_t* is_long) {
  if (model->rotary_tables() < 2) return ac::fail(AC_BAD_ARGUMENT, "the model has one rotary table for all slots");
  model->long_slots = is_long;
  return AC_OK;
}

int32_t ac_model_set_reduce(AcModel* model, AcReduce reduce, void* context) {
  model->reduce = reduce;
  model->reduce_context = context;
  return AC_OK;
}

int32_t ac_model_set_vocab_range(AcModel* model, int32_t first) {
  if (first < 0) return ac::fail(AC_BAD_ARGUMENT, "the first token id " + std::to_string(first) + " is negative");
  model->first_token = first;
  return AC_OK;
}

}  // extern "C"
