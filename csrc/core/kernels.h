// The kernels of one instruction set as a table, and the memory layouts that they share with the model.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ac {

constexpr int TOKEN_GROUP = 16;  // keys of so many neighbouring tokens stand lane by lane

// What one of several threads does of a job that is cut into equal parts.
struct Share {
  int index, count;
  int begin(int64_t parts) const { return static_cast<int>(parts * index / count); }
  int end(int64_t parts) const { return static_cast<int>(parts * (index + 1) / count); }
};

// Packed weights of y = x W: panels of `panel` neighbouring outputs, in a panel input by input.
//   f32   [panel][input][output]          int8  [panel][input][output], y is multiplied by scale [output] at the end
//   bf16  [panel][input / 2][output][2]; the number of inputs is even
// A gated matrix (gate and up projection) has them in turns: panel 0 of gate, panel 0 of up, panel 1 of gate, ...
// scales and biases follow the order of the packed outputs; outputs beyond the last real one have weight and bias 0.
enum class WeightType { f32, bf16, int8 };
struct Matrix {
  WeightType type;
  int inputs, num_panels;
  size_t panel_bytes;
  char* data;
  float* scales;  // int8 only
  float* biases;  // NULL: none
};

// Rows of numbers, `stride` elements apart. Exactly one pointer is set: f32, or bf16 where a kernel multiplies bf16 by
// bf16.
struct Rows {
  float* wide;
  uint16_t* narrow;
  int64_t stride;
};

// Where a matrix product goes: store, add to what is there, activation(product), or activation(gate) * up of a gated
// matrix.
enum class Finish { store, add, activate, gate };
enum class Activation { silu, gelu_tanh, gelu, relu };
struct Product {
  const Matrix* weights;
  Rows input;
  int num_rows;
  Rows output;
  Finish finish;
  int columns;  // outputs to write; more than that are written only if output.stride has room for whole panels
  Activation activation = Activation::silu;
};

// Keys and values of one layer. Block b at base + b * block_bytes holds, T being float or bf16,
//   keys T[kv_heads][block_tokens / 16][head_dim][16], then values T[kv_heads][block_tokens][value_stride].
struct Cache {
  char* base;
  int64_t block_bytes;
  bool is_narrow;
  int block_tokens, kv_heads, head_dim, value_stride;
};

// One attention over a call's rows, layer by layer. qkv: a row holds heads, then keys, then values, head_dim each.
struct Attention {
  Cache cache;
  Rows qkv;
  Rows output;  // [item, heads * head_dim]
  const int32_t* positions;
  int heads, window;  // window 0: none
  float scale;        // of the scores
  float cap;          // scores become cap tanh(score / cap); 0: they stay
};

// Neighbouring rows of one slot whose queries are computed together, for one key head.
struct AttentionTile {
  const int32_t* blocks;  // block table of the slot
  const int32_t* rows;    // rows of the call, ascending positions
  int num_rows, first_output, kv_head;
};

// What happens to a row of qkv between the projection and attention.
struct HeadWork {
  Cache cache;
  int heads;
  const float *query_norm, *key_norm;  // [head_dim], or those of all heads of this rank; NULL: none
  float eps;
};

// A normalisation over n numbers: x / sqrt(mean(x^2) + eps) * weight, or with a bias (x - mean) / sqrt(variance + eps) *
// weight + bias. Without a weight x is only copied.
struct Norm {
  float *weight, *bias;
};

struct Kernels {
  const char* isa;
  int panel;                // outputs of a panel
  int tile_rows;            // queries an attention tile computes at once
  bool multiplies_narrow;   // bf16 weights take bf16 inputs
  void (*multiply)(const Product&, Share);
  void (*normalise)(const float* x, const Norm& norm, int n, float eps, Rows output);  // output may be x
  float (*mean_square)(const float* x, int n);
  // Normalise heads, rotate queries and keys by cos, sin [head_dim / 2], and write key and value to `block` at `place`.
  // means [2]: the mean squares of all queries and all keys, by which they are normalised; NULL: each head by its own.
  void (*place_row)(const HeadWork&, float* qkv, const float* means, const float* cosines, const float* sines,
                    int block, int place);
  void (*attend)(const Attention&, const AttentionTile&, float* scratch);
  void (*cap)(float* x, int64_t n, float limit);  // x = limit tanh(x / limit)
};

// Floats of scratch that `attend` needs for positions below `positions`.
inline int64_t attention_scratch(const Kernels& kernels, int head_dim, int64_t positions) {
  return kernels.tile_rows * (2 * static_cast<int64_t>(head_dim + 32) + positions + 2 * TOKEN_GROUP);
}

// Elements between rows of n numbers of `bytes`: room for whole panels, and an odd number of cache lines, so that
// neighbouring rows never compete for the same lines of the first-level cache.
inline int64_t row_stride(int64_t n, int64_t bytes) { return ((n * bytes + 127) / 128 * 2 + 1) * 64 / bytes; }

}  // namespace ac
