// Kernels that work row by row. All of them put work on the stream and return.
#pragma once
#include "layout.h"
#include "numbers.h"

namespace acu {

// residual[row] = embedding of tokens[row] - first_token, zeros when that is not in 0 .. vocab - 1.
struct Embedding {
  const void* table;  // [vocab, hidden]
  bool is_narrow;
  int vocab, hidden, first_token;
};
void embed(const Embedding& embedding, const int32_t* tokens, int rows, float* residual, cudaStream_t stream);

// x = residual[row] + (partial[row] + bias); output[i] = x / sqrt(mean(x^2) + eps) * weight, row being i or picked[i].
struct Normalisation {
  float* residual;       // [rows, width]
  const float* partial;  // [rows, width]; null: nothing is added
  const float* bias;     // [width] or null
  const float* weight;   // [width]
  const int32_t* picked;  // null: all rows in order
  bool keeps_sum;        // write x over the residual; not with `picked`
  int width;
  float eps;
  Activations output;
};
void add_normalise(const Normalisation& job, int rows, cudaStream_t stream);

// output[row, i] = silu(gate) * up, where gate and up are projected[row, i] and projected[row, inner + i] plus biases.
void gate(const float* projected, const float* bias, Activations output, int rows, int inner, cudaStream_t stream);

// Biases, query/key norms, rotation in place, and the writing of keys and values into one layer's part of the pool.
struct Placement {
  float* qkv;           // [rows, (heads + 2 kv_heads) head_dim]
  const float* bias;    // of the same width, or null
  const float *query_norm, *key_norm;  // [head_dim] or null
  const float *cosines, *sines;        // [positions, head_dim / 2]
  const int32_t *slots, *positions, *block_tables;
  int max_blocks, heads;
  float eps;
  void* pool;
  bool is_narrow;
  BlockShape shape;
};
void place_rows(const Placement& job, int rows, cudaStream_t stream);

// to[j, i] = from[i, j], from [inputs, outputs]; inputs 1 copies. Types: narrow is bf16, else f32.
void pack_transposed(const void* from, bool from_narrow, void* to, bool to_narrow, int64_t inputs, int64_t outputs,
                     cudaStream_t stream);

}  // namespace acu
