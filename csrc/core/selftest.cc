// A program for sanitizer builds: small models of every kind through the C interface, with each instruction set of
// this machine. It checks that f32 logits are those of the definitions, that a prompt in pieces, with other threads,
// gives the bits of the prompt in one call, and that bad calls are refused. Prints one line for each instruction set; the first failure is a line on stderr and exit
// status 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "alignment_core.h"
#include "selftest_reference.h"

namespace {

constexpr int LENGTH = 45, BLOCKS = 8, THREADS = 2;
constexpr uint8_t LONG[] = {0, 1};  // slots

[[noreturn]] void stop(const std::string& what) {
  std::fprintf(stderr, "selftest: %s (%s, %s)\n", what.c_str(), ac_isa(), ac_last_error());
  std::exit(1);
}

void expect(bool holds, const std::string& what) {
  if (!holds) stop(what);
}

// The same numbers of -0.5 .. 0.5 on every run.
std::vector<float> draw(size_t count, unsigned seed) {
  std::vector<float> numbers(count);
  for (float& x : numbers) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<float>(seed >> 8) / static_cast<float>(1 << 24) - 0.5f;
  }
  return numbers;
}

class Model {
 public:
  explicit Model(const AcConfig& config) : config_(config), model_(ac_model_create(&config)) {
    expect(model_ != nullptr, "create");
    set_all();
    const size_t tables = config.rotary_tables ? config.rotary_tables : 1;
    angles_ = draw(tables * config.max_positions * (config.head_dim / 2), 3);
    expect(ac_model_set_rotary(model_, angles_.data(), angles_.data(), config.max_positions) == AC_OK, "set_rotary");
    if (tables > 1) {  // as Gemma 3: the first layer has the window and the second table
      windows_ = {config.window, 0};
      rotaries_ = {1, 0};
      expect(ac_model_set_layers(model_, windows_.data(), rotaries_.data()) == AC_OK, "set_layers");
    }
    expect(ac_model_missing(model_, nullptr, 0) == 0, "nothing is missing");
  }
  Model(const Model&) = delete;
  ~Model() { ac_model_destroy(model_); }

  AcModel* get() const { return model_; }

  // Logits of positions begin .. end - 1 of a fixed prompt.
  std::vector<float> read(int begin, int end, int threads) {
    std::vector<int32_t> tokens = prompt(begin, end), slots(end - begin, 1), positions, wanted;
    for (int i = begin; i < end; ++i) {
      positions.push_back(i);
      wanted.push_back(i - begin);
    }
    std::vector<int32_t> tables = {-1, -1, -1, 5, 2, 7};
    std::vector<float> logits(static_cast<size_t>(end - begin) * config_.vocab);
    const int32_t status = ac_forward(model_, end - begin, tokens.data(), slots.data(), positions.data(),
                                      tables.data(), 3, end - begin, wanted.data(), logits.data(), threads);
    expect(status == AC_OK, "forward");
    return logits;
  }

  // The same by the definitions.
  std::vector<reference::Numbers> read_by_definition() const {
    return reference::Model(config_, weights_, angles_, windows_, rotaries_, is_long_).read(prompt(0, LENGTH));
  }

  // The slot of `read` takes the last table in all layers.
  void make_long() {
    is_long_ = true;
    expect(ac_model_set_long_slots(model_, LONG) == AC_OK, "set_long_slots");
  }

 private:
  std::vector<int32_t> prompt(int begin, int end) const {
    std::vector<int32_t> tokens;
    for (int i = begin; i < end; ++i) tokens.push_back((i * 7 + 3) % config_.vocab);
    return tokens;
  }

  void set(const std::string& name, int rows, int cols) {
    const unsigned seed = static_cast<unsigned>(rows * cols) + 977u * static_cast<unsigned>(weights_.size());
    const std::vector<float>& data = weights_[name] = draw(static_cast<size_t>(rows) * cols, seed);
    expect(ac_model_set_weight(model_, name.c_str(), data.data(), AC_F32, rows, cols, THREADS) == AC_OK, name);
  }

  void set_affine(const std::string& name, int rows, int cols, bool has_bias) {
    set(name + ".weight", rows, cols);
    if (has_bias) set(name + ".bias", 1, cols);
  }

  void set_norm(const std::string& name) {
    set(name + ".weight", 1, config_.hidden);
    if (config_.layer_norm) set(name + ".bias", 1, config_.hidden);
  }

  void set_all() {
    const AcConfig& c = config_;
    const int queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
    const int width = c.embedding_width ? c.embedding_width : c.hidden;
    set("model.embed_tokens.weight", c.vocab, width);
    if (c.embedding_width) set("model.project_in.weight", width, c.hidden);
    if (c.embedding_width) set("model.project_out.weight", c.hidden, width);
    if (c.position_rows) set("model.embed_positions.weight", c.position_rows, c.hidden);
    if (!c.sum_norms) set_norm("model.norm");
    if (!c.tied) set("lm_head.weight", width, c.vocab);
    if (c.head_bias) set("lm_head.bias", 1, c.vocab);
    for (int i = 0; i < c.num_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
      const bool norms_inputs = !c.no_pre_norms && !c.sum_norms;
      if (norms_inputs) set_norm(layer + "input_layernorm");
      if (norms_inputs && !c.no_feed_norm) set_norm(layer + "post_attention_layernorm");
      if (c.post_norms) set_norm(layer + "attended_norm");
      if (c.post_norms) set_norm(layer + "fed_norm");
      if (c.sum_norms) set_norm(layer + "attended_sum_norm");
      if (c.sum_norms) set_norm(layer + "fed_sum_norm");
      if (c.qk_norm) set(attention + "q_norm.weight", 1, c.qk_norm == 2 ? queries : c.head_dim);
      if (c.qk_norm) set(attention + "k_norm.weight", 1, c.qk_norm == 2 ? keys : c.head_dim);
      set_affine(attention + "q_proj", c.hidden, queries, c.qkv_bias);
      set_affine(attention + "k_proj", c.hidden, keys, c.qkv_bias);
      set_affine(attention + "v_proj", c.hidden, keys, c.qkv_bias);
      set_affine(attention + "o_proj", queries, c.hidden, c.output_bias);
      const std::string block = layer + "mlp.";
      if (!c.experts || (c.dense_layers && c.dense_layers[i])) {
        set_feed(block, c.inner);
        continue;
      }
      set(block + "gate.weight", c.hidden, c.experts);
      for (int n = 0; n < c.experts; ++n) set_feed(block + "experts." + std::to_string(n) + ".", c.expert_inner);
      if (c.shared_inner) set_feed(block + "shared_expert.", c.shared_inner);
      if (c.shared_inner) set(block + "shared_expert_gate.weight", c.hidden, 1);
    }
  }

  void set_feed(const std::string& block, int inner) {
    const AcConfig& c = config_;
    if (!c.plain_feed) set_affine(block + "gate_proj", c.hidden, inner, c.mlp_bias);
    set_affine(block + "up_proj", c.hidden, inner, c.mlp_bias);
    set_affine(block + "down_proj", inner, c.hidden, c.mlp_bias);
  }

  AcConfig config_;
  AcModel* model_;
  std::map<std::string, std::vector<float>> weights_;
  std::vector<float> angles_;
  bool is_long_ = false;
  std::vector<int32_t> windows_, rotaries_;  // of layers; empty: those of the configuration
};

AcConfig base_config() {
  AcConfig config{};
  config.struct_bytes = sizeof(AcConfig);
  config.num_layers = 2;
  config.hidden = 38;
  config.inner = 50;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 10;
  config.vocab = 67;
  config.rms_eps = 1e-6f;
  config.block_tokens = 16;
  config.num_blocks = BLOCKS;
  config.max_positions = LENGTH;
  return config;
}

constexpr uint8_t FIRST_IS_DENSE[] = {1, 0};

std::vector<AcConfig> all_configs() {
  std::vector<AcConfig> configs;
  for (int weights = AC_WEIGHT_F32; weights <= AC_WEIGHT_INT8; ++weights) {
    AcConfig plain = base_config();
    plain.weight_type = weights;
    plain.kv_type = weights == AC_WEIGHT_F32 ? AC_F32 : AC_BF16;
    AcConfig full = plain;
    full.qk_norm = full.qkv_bias = full.output_bias = full.mlp_bias = full.tied = 1;
    full.window = 5;
    full.kv_heads = 6;
    full.head_dim = 16;
    AcConfig shared = plain;
    shared.heads = 14;
    shared.kv_heads = 1;
    shared.head_dim = 64;
    AcConfig gelu = plain;  // as Gemma 2
    gelu.activation = AC_GELU_TANH;
    gelu.post_norms = 1;
    gelu.embedding_scale = 6.0f;
    gelu.attention_scale = 0.3f;
    gelu.attention_cap = 0.5f;
    gelu.logit_cap = 2.0f;
    AcConfig learned = plain;  // as OPT
    learned.layer_norm = learned.plain_feed = learned.mlp_bias = 1;
    learned.activation = AC_RELU;
    learned.position_rows = LENGTH + 2;
    learned.position_offset = 2;
    AcConfig summed = learned;  // as OPT-350M
    summed.sum_norms = summed.tied = 1;
    summed.embedding_width = 26;
    AcConfig parallel = plain;  // as Falcon
    parallel.layer_norm = parallel.plain_feed = parallel.parallel = parallel.no_feed_norm = 1;
    parallel.activation = AC_GELU;
    AcConfig after = plain;  // as OLMo 2
    after.no_pre_norms = after.post_norms = 1;
    after.qk_norm = 2;
    AcConfig layers = plain;  // as Gemma 3
    layers.window = 7;
    layers.rotary_tables = 2;
    layers.qk_norm = 1;
    AcConfig biased = parallel;  // as Phi 1.5
    biased.head_bias = biased.qkv_bias = biased.output_bias = biased.mlp_bias = 1;
    AcConfig experts = plain;  // as Qwen2-MoE
    experts.experts = experts.held_experts = 7;
    experts.top_k = 3;
    experts.expert_inner = 22;
    experts.shared_inner = 34;
    experts.dense_layers = FIRST_IS_DENSE;
    AcConfig all_experts = experts;  // as Mixtral
    all_experts.inner = all_experts.shared_inner = 0;
    all_experts.normalises = 1;
    all_experts.dense_layers = nullptr;
    configs.insert(configs.end(), {plain, full, shared, gelu, learned, summed, parallel, after});
    configs.insert(configs.end(), {layers, biased, experts, all_experts});
  }
  return configs;
}

void check_bits(const AcConfig& config) {
  Model whole(config), parts(config);
  const std::vector<float> wanted = whole.read(0, LENGTH, 1);
  for (int begin = 0, step = 1; begin < LENGTH; begin += step, step = step % 4 + 1) {
    const int end = begin + step < LENGTH ? begin + step : LENGTH;
    const std::vector<float> logits = parts.read(begin, end, THREADS);
    const float* same = wanted.data() + static_cast<size_t>(begin) * config.vocab;
    expect(std::memcmp(logits.data(), same, logits.size() * sizeof(float)) == 0, "bits of a prompt in pieces");
  }
  for (int block : {5, 2, 7}) expect(ac_copy_block(parts.get(), block, (block + 1) % BLOCKS) == AC_OK, "copy_block");
  expect(whole.read(0, LENGTH, THREADS) == wanted, "bits with two threads");
}

void check_numbers(const AcConfig& config, bool is_long) {
  Model model(config);
  if (is_long) model.make_long();
  const std::vector<float> found = model.read(0, LENGTH, 1);
  const std::vector<reference::Numbers> wanted = model.read_by_definition();
  double largest = 0.0, error = 0.0;
  for (int row = 0; row < LENGTH; ++row) {
    for (int i = 0; i < config.vocab; ++i) {
      largest = std::max(largest, std::abs(wanted[row][i]));
      error = std::max(error, std::abs(wanted[row][i] - found[static_cast<size_t>(row) * config.vocab + i]));
    }
  }
  expect(largest > 0.5 && error < 3e-5 * largest, "logits by definition: off by " + std::to_string(error));
}

void check_refusals() {
  AcConfig wrong = base_config();
  wrong.struct_bytes = 4;
  expect(ac_model_create(&wrong) == nullptr, "a struct of another size is refused");
  wrong = base_config();
  wrong.block_tokens = 8;
  expect(ac_model_create(&wrong) == nullptr, "blocks of 8 tokens are refused");
  wrong = base_config();
  wrong.experts = wrong.held_experts = 2;
  wrong.expert_inner = 8;
  wrong.top_k = 3;
  expect(ac_model_create(&wrong) == nullptr, "more experts of a token than there are is refused");
  Model model(base_config());
  const int32_t windows[] = {0, 0}, rotaries[] = {0, 1};
  expect(ac_model_set_layers(model.get(), windows, rotaries) == AC_BAD_ARGUMENT, "a table that is not there is refused");
  expect(ac_model_set_long_slots(model.get(), LONG) == AC_BAD_ARGUMENT, "long slots without a table are refused");
  expect(ac_copy_block(model.get(), 0, BLOCKS) == AC_BAD_ARGUMENT, "a block beyond the pool is refused");
  const int32_t status = ac_model_set_weight(model.get(), "lm_head.bias", nullptr, AC_F32, 1, 67, 1);
  expect(status == AC_BAD_ARGUMENT, "an unknown name is refused");
  const int32_t token = 67, zero = 0, far = LENGTH;
  const auto refuses = [&](const int32_t* tokens, const int32_t* positions, const int32_t* wanted) {
    float logits[67];
    return ac_forward(model.get(), 1, tokens, &zero, positions, &zero, 1, 1, wanted, logits, 1) == AC_BAD_ARGUMENT;
  };
  expect(refuses(&token, &zero, &zero), "a token beyond the vocabulary is refused");
  expect(refuses(&zero, &far, &zero), "a position beyond the tables is refused");
  expect(refuses(&zero, &zero, &far), "a logit row that is no row is refused");
  expect(ac_forward(model.get(), 0, nullptr, nullptr, nullptr, nullptr, 1, 0, nullptr, nullptr, 1) == AC_OK, "no rows");
}

}  // namespace

int main() {
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512bf16", "avx512amx", "neon"}) {
    if (ac_set_isa(isa) != AC_OK) continue;
    for (const AcConfig& config : all_configs()) {
      if (config.weight_type == AC_WEIGHT_F32) check_numbers(config, false);
      if (config.weight_type == AC_WEIGHT_F32 && config.rotary_tables > 1) check_numbers(config, true);
      check_bits(config);
    }
    check_refusals();
    std::printf("%s: ok\n", isa);
  }
  return 0;
}
