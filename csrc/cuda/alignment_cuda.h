// C interface of the generation kernels on a CUDA device: csrc/core/alignment_core.h with device pointers and a stream.
//
// Unless said otherwise every pointer into arrays is device memory, calls only put work on `stream` (a cudaStream_t)
// and return before it is done, and nothing allocates or waits: any sequence of acu_forward, acu_philox_uniform,
// acu_sample and acu_advance may be captured into a CUDA graph. The host cannot look at device arrays, so row data
// are not checked by acu_forward; acu_check_rows does that on the device.
//
// Functions that can fail return 0 or a negative AcStatus or AcuStatus (create: NULL); acu_last_error() then holds one
// sentence. A model belongs to the device that was current when it was created, and its calls to one stream at a time.
#ifndef ALIGNMENT_CUDA_H
#define ALIGNMENT_CUDA_H

#include "../core/alignment_core.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ACU_ABI_VERSION 3

enum AcuStatus { ACU_DEVICE_FAILED = -5 };

// What a model must have room for; its scratch memory is taken when it is created.
typedef struct AcuLimits {
  int32_t struct_bytes;     // sizeof(AcuLimits)
  int32_t max_rows;         // of one forward
  int32_t max_decode_rows;  // of those, how many may ask for split attention
  int32_t max_logit_rows;
  int32_t row_invariant;    // 1: one cuBLASLt algorithm for a matrix whatever the number of rows, without split sums
} AcuLimits;

typedef struct AcuModel AcuModel;

AC_API int32_t acu_abi_version(void);
AC_API const char* acu_last_error(void);  // of the calling thread; "" when nothing failed yet

// Weights are f32, bf16 or int8, head_dim is 32, 64 or 128. With bf16 weights the inputs of the matrices are bf16 too;
// with int8 weights, whose embedding is bf16, they have the pool's type. Sums and the residual stream are f32. Products
// of f32 inputs never use TF32. Allocates.
AC_API AcuModel* acu_model_create(const AcConfig* config, const AcuLimits* limits);
AC_API void acu_model_destroy(AcuModel* model);
AC_API int64_t acu_model_bytes(const AcuModel* model);  // weights, pool and scratch

// As the ac_ functions of the same names; data, cosines and sines are device memory, names and out host memory.
AC_API int32_t acu_model_set_weight(AcuModel* model, const char* name, const void* data, int32_t dtype, int64_t rows,
                                    int64_t cols, void* stream);
AC_API int32_t acu_model_missing(const AcuModel* model, char* out, int32_t size);
AC_API int32_t acu_model_set_rotary(AcuModel* model, const float* cosines, const float* sines, int32_t positions,
                                    void* stream);
// reduce(context, data, count, stream) puts the sum over the ranks of device memory `data` on the stream.
typedef void (*AcuReduce)(void* context, float* data, int64_t count, void* stream);
AC_API int32_t acu_model_set_reduce(AcuModel* model, AcuReduce reduce, void* context);
AC_API int32_t acu_model_set_vocab_range(AcuModel* model, int32_t first);

// As ac_forward. The first decode_rows rows attend with their context split over the device, the others in tiles of
// neighbouring rows; a row has the same bits either way. longest: every position is below it; it sets the size of the
// launch, so a captured graph serves as long as it holds. A row whose slot is negative is idle: it writes nothing to
// the pool and its logits mean nothing.
AC_API int32_t acu_forward(AcuModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                           const int32_t* positions, const int32_t* block_tables, int32_t max_blocks,
                           int32_t num_logit_rows, const int32_t* logit_rows, float* logits, int32_t decode_rows,
                           int32_t longest, void* stream);
// Lower *problem, which the caller has set to INT32_MAX, to 1 + 8 * row + reason of the first row that acu_forward must
// not be given. Reasons: 0 token, 1 position, 2 order of positions within a slot, 3 block table too short, 4 a block
// that is not in the pool.
AC_API int32_t acu_check_rows(const AcuModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                              const int32_t* positions, const int32_t* block_tables, int32_t max_blocks,
                              int32_t longest, int32_t* problem, void* stream);
AC_API int32_t acu_copy_block(AcuModel* model, int32_t source, int32_t target, void* stream);

// As ac_sample; sampling is host memory, all else device memory. workspace: acu_sample_bytes(rows, vocab) bytes.
// outcomes[row]: 0 drawn, 1 the logits are NaN or infinite, 2 they allow no token; in the last two cases tokens[row] is
// 0 and logprobs[row] NaN.
AC_API int64_t acu_sample_bytes(int32_t rows, int32_t vocab);
AC_API int32_t acu_sample(int32_t rows, int32_t vocab, const float* logits, const double* uniforms,
                          const AcSampling* sampling, const int32_t* stop_tokens, int32_t num_stops,
                          const uint8_t* forbid_stops, const uint8_t* const* seen, int64_t* tokens, float* logprobs,
                          int32_t* outcomes, void* workspace, void* stream);
AC_API int32_t acu_philox_uniform(uint64_t seed, int32_t rows, const uint64_t* sequence_ids, const uint32_t* positions,
                                  double* out, void* stream);
// Prepare the next decode step of each row: tokens[row] = sampled[row], positions[row] and draws[row] (the positions of
// acu_philox_uniform) grow by one, and the token is marked in seen[row] (seen or seen[row] may be NULL).
AC_API int32_t acu_advance(int32_t rows, const int64_t* sampled, int32_t* tokens, int32_t* positions, uint32_t* draws,
                           uint8_t* const* seen, void* stream);

// The device that the calling thread works on from now on.
AC_API int32_t acu_use_device(int32_t index);
// Copies of `bytes` bytes: host to device (`from` may change afterwards; more than 4 MiB are waited for), device to device, and device to host, which
// waits until the work put on the stream before is done.
AC_API int32_t acu_write(void* to, const void* from, int64_t bytes, void* stream);
AC_API int32_t acu_move(void* to, const void* from, int64_t bytes, void* stream);
AC_API int32_t acu_read(void* to, const void* from, int64_t bytes, void* stream);

// Work put on *stream from acu_graph_begin to acu_graph_end is not done but captured; acu_graph_launch does it on another
// stream, as often as wanted, with the arrays it was captured with. Work of the same sizes must have run before. Between
// begin and end nothing may wait. begin: NULL when it fails. A graph whose end failed can only be destroyed.
typedef struct AcuGraph AcuGraph;
AC_API AcuGraph* acu_graph_begin(void** stream);
AC_API int32_t acu_graph_end(AcuGraph* graph);
AC_API int32_t acu_graph_launch(AcuGraph* graph, void* stream);
AC_API void acu_graph_destroy(AcuGraph* graph);

#ifdef __cplusplus
}
#endif
#endif
