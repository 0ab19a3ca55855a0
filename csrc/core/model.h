// A decoder's packed weights and its pool of keys and values.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "alignment_core.h"
#include "kernels.h"
#include "memory.h"

namespace ac {

// A feed-forward network.
struct Feed {
  Matrix gate_up, down;
};

struct Layer {
  Norm input_norm, attended_norm, feed_norm, fed_norm;
  Norm attended_sum_norm, fed_sum_norm;  // of hidden states after attention and after feed-forward were added
  float *query_norm, *key_norm;
  Matrix qkv, output;
  Feed feed;     // in a layer without experts
  Matrix router;  // an output for each expert, and one for the switch of the shared expert
  std::vector<Feed> experts;  // of this rank
  Feed shared;
  bool has_experts = false;
};

// Where a parameter of the caller goes.
struct Parameter {
  enum class Kind { vector, matrix, embedding, rows };  // rows: f32 as they are
  Kind kind;
  int64_t rows, cols;
  float* vector;      // vectors and rows: first number, when they are not biases
  Matrix* matrix;     // matrices and biases: a stretch of its outputs
  int first_output;   // of that stretch
  int pair;           // 0 gate, 1 up: which of the panels that stand in turns; -1: not gated
  bool is_set;
};

const Kernels* current_kernels();  // those that ac_set_isa chose, else the best of this machine

}  // namespace ac

struct AcModel {
  AcConfig config;
  const ac::Kernels* kernels;
  ac::Memory weights, pool, scratch;
  std::vector<ac::Layer> layers;
  std::vector<int32_t> windows, rotaries;  // of each layer
  ac::Matrix head, project_in, project_out;
  char* embedding;  // [vocab, embedding_width], f32 or, beside other weights than f32, bf16
  float *positions, *cosines, *sines;
  ac::Norm norm;
  std::map<std::string, ac::Parameter> parameters;
  bool has_rotary = false;
  AcReduce reduce = nullptr;
  void* reduce_context = nullptr;
  int first_token = 0;
  int64_t bytes_read = 0;
  uint16_t* chosen_experts = nullptr;  // ac_model_record_experts
  const uint8_t* long_slots = nullptr;

  explicit AcModel(const AcConfig& given);  // raises std::bad_alloc
  bool embeds_narrow() const { return config.weight_type != AC_WEIGHT_F32; }
  int embedding_width() const { return config.embedding_width ? config.embedding_width : config.hidden; }
  bool narrow_inputs() const { return config.weight_type == AC_WEIGHT_BF16 && kernels->multiplies_narrow; }
  ac::Cache cache(int layer) const;
  int rotary_tables() const { return config.rotary_tables ? config.rotary_tables : 1; }
  // Numbers of one table of cosines or sines.
  int64_t angles() const { return static_cast<int64_t>(config.max_positions) * (config.head_dim / 2); }
  // Which table the rows of a slot take in a layer.
  int table_of(int layer, int slot) const {
    return long_slots && long_slots[slot] ? rotary_tables() - 1 : rotaries[layer];
  }
  // Whether queries and keys are normalised over all heads of a token.
  bool norms_all_heads() const { return config.qk_norm == 2; }

 private:
  void lay_out(ac::Carver& carver);
  ac::Norm lay_out_norm(ac::Carver& carver, bool exists);
  void lay_out_layer(ac::Carver& carver, ac::Layer& layer);
  void lay_out_feed(ac::Carver& carver, ac::Layer& layer);
  void name_matrix(const std::string& name, ac::Matrix& to, int cols, int first, int pair);
  void name_feed(const std::string& block, ac::Feed& feed);
  void name_experts(const std::string& block, ac::Layer& layer);
  void name_norm(const std::string& name, const ac::Norm& norm);
  void name_parameters();
  void name_layer(const std::string& prefix, ac::Layer& layer);
};
