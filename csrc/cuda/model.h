// A decoder's weights, pool of keys and values, and scratch memory on a device.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "alignment_cuda.h"
#include "attention.h"
#include "byte_products.h"
#include "matmul.h"

namespace acu {

// Device memory of one allocation, taken piece by piece. Made with null it only counts.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    const int64_t at = used_;
    used_ = ceil_divide(used_ + count * static_cast<int64_t>(sizeof(T)), ALIGNMENT) * ALIGNMENT;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t ALIGNMENT = 256;
  char* base_;
  int64_t used_ = 0;
};

// [out, in]: f32 or bf16 at `numbers`, or else int8 at `bytes`.
struct Matrix {
  char* numbers;
  ByteMatrix bytes;
};

// Vectors are f32, biases null where the model has none.
struct Layer {
  float *input_norm, *feed_norm, *query_norm, *key_norm;
  float *qkv_bias, *output_bias, *gate_up_bias, *down_bias;
  Matrix qkv, output, gate_up, down;
};

struct Scratch {
  float *residual, *partial, *qkv, *gate_up, *split;
  Activations normed, mixed, gated;
};

// Where a parameter of the caller goes: to `to`, as whole numbers to `bytes`, or (a tied embedding) to both.
struct Parameter {
  int64_t rows, cols;  // as the caller has it
  void* to;
  ByteMatrix bytes;
  bool to_narrow, is_transposed;
  bool is_set = false;
};

}  // namespace acu

struct AcuModel {
  AcConfig config;
  AcuLimits limits;
  acu::BlockShape shape;
  std::vector<acu::Layer> layers;
  acu::Scratch scratch;
  char* embedding;
  acu::Matrix head;
  float *norm, *cosines, *sines;
  char* pool = nullptr;
  std::map<std::string, acu::Parameter> parameters;
  std::unique_ptr<acu::Multiplier> multiplier;
  AcuReduce reduce = nullptr;
  void* reduce_context = nullptr;
  int first_token = 0;
  bool has_rotary = false;

  AcuModel(const AcConfig& config, const AcuLimits& limits);
  ~AcuModel();
  AcuModel(const AcuModel&) = delete;

  bool take_memory();  // false: acu_last_error has the sentence
  int64_t bytes() const { return arena_bytes_ + pool_bytes() + (multiplier ? multiplier->bytes() : 0); }
  int64_t block_bytes() const { return shape.numbers() * (config.kv_type == AC_BF16 ? 2 : 4); }
  int64_t layer_bytes() const { return block_bytes() * config.num_blocks; }
  int64_t pool_bytes() const { return layer_bytes() * config.num_layers; }
  bool has_bytes() const { return config.weight_type == AC_WEIGHT_INT8; }
  bool embeds_narrow() const { return config.weight_type != AC_WEIGHT_F32; }
  // Of the inputs of the matrices.
  bool is_narrow() const { return has_bytes() ? config.kv_type == AC_BF16 : embeds_narrow(); }
  int qkv_width() const { return (config.heads + 2 * config.kv_heads) * config.head_dim; }
  int mixed_width() const { return config.heads * config.head_dim; }

 private:
  void lay_out(acu::Carver& carver);
  void lay_out_layer(acu::Carver& carver, acu::Layer& layer);
  void lay_out_scratch(acu::Carver& carver);
  acu::Matrix lay_out_matrix(acu::Carver& carver, int64_t inputs, int64_t outputs);
  void name_parameters();
  void name_layer(const std::string& prefix, const acu::Layer& layer);
  void name_vector(const std::string& name, float* to, int64_t size);
  void name_matrix(const std::string& name, const acu::Matrix& to, int64_t inputs, int64_t outputs,
                   int64_t first_output = 0);

  char* arena_ = nullptr;
  int64_t arena_bytes_ = 0;
};
