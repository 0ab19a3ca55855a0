// C interface of the generation kernels. Free of any framework: plain pointers, 32-bit ints unless said otherwise.
//
// One model owns its packed weights and a pool of key/value blocks. One call of ac_forward computes any mixture of
// prompt tokens and single decode steps. A row's logits are the same bits whatever other rows share the call, however
// its prompt was cut into calls, whichever slot and blocks hold it, and however many threads work.
//
// Functions that can fail return 0 or a negative code (create: NULL); ac_last_error() then holds one sentence.
// A model may be used by one thread at a time; different models are independent.
#ifndef ALIGNMENT_CORE_H
#define ALIGNMENT_CORE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define AC_API __declspec(dllexport)
#else
#define AC_API __attribute__((visibility("default")))
#endif

#define AC_ABI_VERSION 1

enum AcWeightType { AC_WEIGHT_F32 = 0, AC_WEIGHT_BF16 = 1, AC_WEIGHT_INT8 = 2 };
enum AcDataType { AC_F32 = 0, AC_BF16 = 1 };
enum AcActivation { AC_SILU = 0, AC_GELU_TANH = 1, AC_GELU = 2, AC_RELU = 3 };
enum AcStatus { AC_OK = 0, AC_BAD_ARGUMENT = -1, AC_NO_MEMORY = -2, AC_NOT_READY = -3, AC_NOT_FINITE = -4 };

// Sizes are those of this rank: with tensor parallelism heads, kv_heads, inner and vocab are already divided.
typedef struct AcConfig {
  int32_t struct_bytes;  // sizeof(AcConfig), so that a caller built from another header is refused
  int32_t num_layers, hidden, inner, heads, kv_heads, head_dim, vocab;
  float rms_eps;        // of every norm
  int32_t window;       // a token sees this many tokens, itself included; 0: all before it
  int32_t qk_norm;      // queries and keys are normalised before the rotation, 1: head by head (Qwen3), 2: all heads of
                        // a token together, over all ranks (OLMo 2)
  int32_t qkv_bias;     // 1: q_proj, k_proj and v_proj have biases
  int32_t output_bias;  // 1: o_proj has one
  int32_t mlp_bias;     // 1: gate_proj, up_proj and down_proj have them
  int32_t layer_norm;   // 1: norms subtract the mean and have biases; 0: root mean square, no bias
  int32_t activation;   // AcActivation
  int32_t plain_feed;   // 1: down(activation(up)), without a gate
  int32_t experts;      // experts of a layer, over all ranks; 0: there are none
  int32_t top_k;        // experts that a token is given to, by the softmax of mlp.gate
  int32_t normalises;   // 1: the weights of a token's experts add up to 1
  int32_t first_expert, held_experts;  // those of this rank
  int32_t expert_inner;  // width of an expert (this rank's columns)
  int32_t shared_inner;  // width of the expert of all tokens, which mlp.shared_expert_gate switches; 0: there is none
  const uint8_t* dense_layers;  // [num_layers], read at creation; not 0: one plain block. NULL: all layers have experts
  int32_t parallel;     // 1: attention and feed-forward read the same hidden states, and both are added
  int32_t no_feed_norm; // 1: the feed-forward block reads what attention reads (parallel only)
  int32_t no_pre_norms; // 1: attention and feed-forward read hidden states that are not normalised
  int32_t post_norms;   // 1: what attention and feed-forward give is normalised before it is added
  int32_t sum_norms;    // 1: hidden states are normalised after each addition, not before they are read (not parallel)
  int32_t position_rows;    // rows of model.embed_positions.weight, which are added to the embeddings; 0: there are none
  int32_t position_offset;  // the row of position 0
  int32_t embedding_width;  // of embeddings, if model.project_in makes hidden states of them and model.project_out
                            // what the head reads; 0: hidden
  float embedding_scale;    // of the embeddings (not of the head); 0: 1
  float attention_scale;    // of the scores; 0: 1 / sqrt(head_dim)
  float attention_cap, logit_cap;  // x becomes cap tanh(x / cap); 0: it stays
  int32_t head_bias;    // 1: lm_head has a bias, also where it is the embedding
  int32_t rotary_tables;  // how many pairs of tables ac_model_set_rotary gets; 0: 1
  int32_t tied;         // 1: the head is the embedding; lm_head.weight is then not a weight of the model
  int32_t weight_type;  // AcWeightType of the matrices; norms and biases stay f32, embeddings are f32 or bf16
  int32_t kv_type;      // AcDataType of the key/value pool
  int32_t block_tokens; // tokens of one block, a multiple of 16
  int32_t num_blocks;   // blocks of the pool; one block holds its tokens for every layer
  int32_t max_positions;  // rows of the rotary tables; positions must be below
} AcConfig;

typedef struct AcModel AcModel;

AC_API int32_t ac_abi_version(void);
AC_API const char* ac_last_error(void);  // of the calling thread; "" when nothing failed yet

// Instruction set that new models will use: scalar, avx2, avx512, avx512bf16, avx512amx or neon. A model keeps the one it was
// created with. ac_set_isa fails when the library lacks the name or the machine lacks the instructions.
AC_API const char* ac_isa(void);
AC_API int32_t ac_set_isa(const char* name);

AC_API AcModel* ac_model_create(const AcConfig* config);
AC_API void ac_model_destroy(AcModel* model);
AC_API int64_t ac_model_bytes(const AcModel* model);  // weights and pool; scratch grows with the rows of a call
// Bytes of the packed matrices that all calls so far multiplied by, each counted once a call; of the experts these are
// the ones that a row of the call chose.
AC_API int64_t ac_model_bytes_read(const AcModel* model);

// Pack one parameter under its Hugging Face name (model.layers.0.self_attn.q_proj.weight, ...). data is contiguous and
// row-major: matrices [in, out], embeddings [vocab, width], vectors rows = 1. dtype: AcDataType of data. Calling it
// again overwrites in place. threads as in ac_forward.
AC_API int32_t ac_model_set_weight(AcModel* model, const char* name, const void* data, int32_t dtype, int64_t rows,
                                   int64_t cols, int32_t threads);
// Return how many weights (and rotary tables) were never set; their names go into out, comma-separated and cut to
// size bytes with the final zero. out may be NULL when size is 0.
AC_API int32_t ac_model_missing(const AcModel* model, char* out, int32_t size);
// Tables [rotary_tables, positions, head_dim / 2] of cos and sin, copied; positions must be max_positions. A head's two
// halves are rotated against each other: (a, b) -> (a cos - b sin, b cos + a sin).
AC_API int32_t ac_model_set_rotary(AcModel* model, const float* cosines, const float* sines, int32_t positions);

// Layer i has the window windows[i] (0: none) and the table rotaries[i]; both [num_layers]. Not called: every layer has
// that of the configuration, and table 0.
AC_API int32_t ac_model_set_layers(AcModel* model, const int32_t* windows, const int32_t* rotaries);

// The rows of slot s take the last table instead of their layer's where is_long[s] is not 0 (longrope). Read in every
// call from now on, for all its slots; NULL: none takes it.
AC_API int32_t ac_model_set_long_slots(AcModel* model, const uint8_t* is_long);

// Tensor parallelism: reduce(context, data, count) must replace data by its sum over the ranks. It is called from the
// thread that called ac_forward, on the embeddings, after o_proj and down_proj of every layer, and with qk_norm 2 on mean
// squares, in the same order and with the same counts on every rank. NULL: one rank. Logits stay divided over the ranks
// by vocabulary.
typedef void (*AcReduce)(void* context, float* data, int64_t count);
AC_API int32_t ac_model_set_reduce(AcModel* model, AcReduce reduce, void* context);
// This rank's embedding rows are token ids first .. first + vocab - 1; other ids give zeros, which reduce completes.
AC_API int32_t ac_model_set_vocab_range(AcModel* model, int32_t first);

// Where calls of ac_forward from now on write the experts that each row is given to, [rows, num_layers, top_k], the
// likeliest first; NULL: nowhere. What a call does not choose stays as it is: a layer without experts, and in the last
// layer a row without logits.
AC_API int32_t ac_model_record_experts(AcModel* model, uint16_t* experts);

// One forward over flat rows. Row r is token tokens[r] of sequence slots[r] at position positions[r]. Rows of one slot
// stand together in ascending position. Its key and value are written to block
// block_tables[slots[r] * max_blocks + positions[r] / block_tokens], then it attends to positions 0 .. positions[r] of
// its slot (with a window, to the last `window` of them; blocks wholly before every row's window are not touched).
// Block tables are checked only where they are used. logits [num_logit_rows, vocab] are those of rows logit_rows[i];
// num_logit_rows may be 0. No two slots may write the same block. threads >= 1.
AC_API int32_t ac_forward(AcModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                          const int32_t* positions, const int32_t* block_tables, int32_t max_blocks,
                          int32_t num_logit_rows, const int32_t* logit_rows, float* logits, int32_t threads);
// Copy one block of every layer over another.
AC_API int32_t ac_copy_block(AcModel* model, int32_t source, int32_t target);

// How tokens are drawn; the order of the steps and every result are those of alignment/generation/sampling.py.
typedef struct AcSampling {
  int32_t struct_bytes;  // sizeof(AcSampling)
  int32_t do_sample;     // 0: the likeliest token, the first one of equals
  int32_t top_k;         // 0: all tokens
  int32_t usable_vocab;  // ids of this and above are never drawn
  float temperature;
  float repetition_penalty;  // of tokens marked in `seen`
  double top_p;              // 1: all tokens
} AcSampling;

// One token for each row of logits [rows, vocab]; uniforms [rows] in [0, 1). No row gets a stop token whose
// forbid_stops[row] is not 0 (NULL: none forbids). seen: NULL, or for each row NULL or vocab bytes, not 0 where the token
// occurred. logprobs[row] is that of softmax(logits / temperature) before penalty, masks and filters. A row whose logits
// are NaN, or infinite at their largest, is refused with AC_NOT_FINITE and named in the error. The instruction set is
// that of ac_isa(); all give the same tokens.
AC_API int32_t ac_sample(int32_t rows, int32_t vocab, const float* logits, const double* uniforms,
                         const AcSampling* sampling, const int32_t* stop_tokens, int32_t num_stops,
                         const uint8_t* forbid_stops, const uint8_t* const* seen, int64_t* tokens, float* logprobs,
                         int32_t threads);

// out[i]: a number in [0, 1) with 53 random bits that depends on (seed, sequence_ids[i], positions[i]) alone; the bits of
// alignment/generation/random_numbers.py.
AC_API void ac_philox_uniform(uint64_t seed, int32_t rows, const uint64_t* sequence_ids, const uint32_t* positions,
                              double* out);

#ifdef __cplusplus
}
#endif
#endif
