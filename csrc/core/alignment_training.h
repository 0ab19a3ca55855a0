// C interface of the training kernels: operators with their gradients, in float32, on memory that the caller owns.
//
// Nothing is kept between calls but working memory. All arrays are contiguous. Results do not depend on the number of
// threads; those of a row or sequence do not depend on what else is in the call. threads: 0 takes as many as OpenMP
// would (OMP_NUM_THREADS). Functions return 0 or a negative code and leave a sentence in ac_last_error().
#ifndef ALIGNMENT_TRAINING_H
#define ALIGNMENT_TRAINING_H

#include "alignment_core.h"

#ifdef __cplusplus
extern "C" {
#endif

// y = x * scale * weight with scale = 1 / sqrt(mean(x^2) + eps) of each row; x, y [rows, width], weight [width],
// scales [rows].
AC_API int32_t ac_rms_norm_forward(int64_t rows, int32_t width, const float* x, const float* weight, float eps,
                                   float* y, float* scales, int32_t threads);
AC_API int32_t ac_rms_norm_backward(int64_t rows, int32_t width, const float* grad, const float* x, const float* weight,
                                    const float* scales, float* x_grad, float* weight_grad, int32_t threads);

// y = silu(gate) * up over `count` numbers.
AC_API int32_t ac_swiglu_forward(int64_t count, const float* gate, const float* up, float* y, int32_t threads);
AC_API int32_t ac_swiglu_backward(int64_t count, const float* grad, const float* gate, const float* up,
                                  float* gate_grad, float* up_grad, int32_t threads);

// Causal attention over sequences that stand one after the other, without padding. Sequences that begin with the same
// tokens may share them: their keys are read once, and their gradients are sums over all that see them.
typedef struct AcSequences {
  int32_t struct_bytes;  // sizeof(AcSequences)
  int32_t num_sequences, heads, kv_heads, head_dim;
  int32_t window;         // a token sees this many tokens, itself included; 0: all before it
  const int32_t* starts;  // [num_sequences + 1]: the first token of each, at last the number of tokens M
  const float *cosines, *sines;  // [M, head_dim / 2], rotating queries and keys; NULL: they are rotated already
  // Where only some tokens are queries: the position of each sequence's first one [num_sequences], and the place of that
  // one among all Q queries, at last Q [num_sequences + 1]. NULL: every token is a query, Q = M.
  const int32_t *first_queries, *query_starts;
  // How many leading tokens each sequence [num_sequences] shares with the one before it, as that one sees them; only the
  // others stand in memory, and positions count the shared ones too. NULL: none are shared.
  const int32_t* shared;
  float cap;  // scores become cap tanh(score / cap); 0: they stay
} AcSequences;

// out = softmax(q k' / sqrt(head_dim)) v, with the cap on the scores. q, out [Q, heads * head_dim]; k, v [M, kv_heads * head_dim]. statistics
// [Q, heads, 2]: the largest score of each query and 1 / sum e^(score - largest). Gradients have the shapes of what
// they belong to.
AC_API int32_t ac_attention_forward(const AcSequences* sequences, const float* q, const float* k, const float* v,
                                    float* out, float* statistics, int32_t threads);
AC_API int32_t ac_attention_backward(const AcSequences* sequences, const float* grad, const float* q, const float* k,
                                     const float* v, const float* out, const float* statistics, float* q_grad,
                                     float* k_grad, float* v_grad, int32_t threads);

// Log-probs of given tokens under softmax(logits / temperature), and its entropies.
typedef struct AcLogits {
  int32_t struct_bytes;  // sizeof(AcLogits)
  int32_t vocab;
  int64_t rows;
  const float* logits;     // [rows, vocab]
  const int64_t* targets;  // [rows]; NULL: only entropies are wanted
  float temperature;
} AcLogits;

// logprobs [rows] (not touched without targets), entropies [rows] in nats, statistics [rows, 2]: the largest logit, and
// log sum e^((logit - largest) / temperature). A target outside of the vocabulary is refused.
AC_API int32_t ac_logprobs_forward(const AcLogits* input, float* logprobs, float* entropies, float* statistics,
                                   int32_t threads);
// logit_grads [rows, vocab] of sum(logprob_grads * logprobs) + sum(entropy_grads * entropies); either may be NULL, and
// logit_grads may be the logits themselves.
AC_API int32_t ac_logprobs_backward(const AcLogits* input, const float* entropies, const float* statistics,
                                    const float* logprob_grads, const float* entropy_grads, float* logit_grads,
                                    int32_t threads);

// sums [num_tensors]: of the squares of each tensor's numbers, which are exact; only the additions round.
typedef struct AcNumbers {
  int64_t count;
  const float* numbers;
} AcNumbers;

AC_API int32_t ac_sum_of_squares(int32_t num_tensors, const AcNumbers* tensors, double* sums, int32_t threads);

// total[ids[i]] += added[i] for rows of `width` numbers in ascending order of i; total [height, width], added [count, width].
AC_API int32_t ac_add_rows(int64_t count, int64_t width, const int64_t* ids, const float* added, float* total,
                           int64_t height, int32_t threads);

// AdamW (Loshchilov and Hutter 2019) on gradients * gradient_scale, by the rules of Paddle's operator: each number is
// read and written once. Bits depend neither on the instruction set nor on how a tensor is cut into several.
typedef struct AcAdam {
  int32_t struct_bytes, tensor_bytes;  // sizeof(AcAdam), sizeof(AcAdamTensor)
  float learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
} AcAdam;
typedef struct AcAdamTensor {
  int64_t count;
  const float* gradient;
  float *weight, *moment1, *moment2;
  float *power1, *power2;  // beta^t of the t-th step; afterwards those of the next
  int32_t decays;          // whether the weight decays
} AcAdamTensor;

AC_API int32_t ac_adamw(const AcAdam* adam, int32_t num_tensors, const AcAdamTensor* tensors, int32_t threads);

#ifdef __cplusplus
}
#endif
#endif
