// The training kernels of one instruction set as a table; training.cc cuts the work into the pieces they take.
#pragma once
#include <cstdint>

namespace ac {

// One key head of one sequence and the query heads that share it. Pointers are at position 0 (those of queries at the
// first query) and the first of these heads; what stands at positions below `shared` is not this sequence's. A token's
// heads stand head_dim apart, its neighbour's query_stride or key_stride.
struct SharedHead {
  int shared, length;           // the positions of its own tokens
  int capacity;                 // the length of the longest sequence that shares tokens with this one
  int head_dim, group;          // numbers of a head; query heads
  int first_query, end_query;   // the positions of the queries
  int unwritten;                // attend_backward's own: gradients of keys before this position are not written yet
  int window;                   // 0: none
  float cap;                    // scores become cap tanh(score / cap); 0: they stay
  int64_t query_stride, key_stride, statistics_stride;
  const float *cosines, *sines;  // [length, head_dim / 2], or NULL
  const float *q, *k, *v;
  float *out, *statistics;  // attend writes, attend_backward reads them; neighbouring heads' statistics stand 2 apart
  const float* grad;        // of out; this and what follows for attend_backward only
  float *q_grad, *k_grad, *v_grad;
};

// One row of logits.
struct LogitRow {
  const float* logits;
  int vocab;
  float inverse_temperature;
};
struct LogitStatistics {
  float top, log_sum, entropy;
};

// One step of AdamW: m1 = beta1 m1 + rest1 g, m2 = beta2 m2 + rest2 g g, w = w - decay w - step m1 / (sqrt(m2) + epsilon)
// with g = gradient * gradient_scale.
struct AdamFactors {
  float gradient_scale, beta1, rest1, beta2, rest2, decay, step, epsilon;
};
struct AdamStretch {
  const float* gradient;
  float *weight, *moment1, *moment2;
  int64_t count;
};

struct TrainingKernels {
  // y = x * scale * weight over n numbers; returns the scale.
  float (*normalise)(const float* x, const float* weight, int n, float eps, float* y);
  // x_grad of one row; adds grad * x * scale to weight_grad.
  void (*normalise_backward)(const float* grad, const float* x, const float* weight, int n, float scale, float* x_grad,
                             float* weight_grad);
  void (*gate)(const float* gate, const float* up, int64_t n, float* y);
  void (*gate_backward)(const float* grad, const float* gate, const float* up, int64_t n, float* gate_grad,
                        float* up_grad);
  // Of `count` sequences that follow each other and share leading tokens; the first one shares none.
  void (*attend)(SharedHead*, int count, float* scratch);
  void (*attend_backward)(SharedHead*, int count, float* scratch);
  LogitStatistics (*summarise)(const LogitRow&);
  // logit_grads of logprob_grad * (0 - log sum) + entropy_grad * entropy: the target's own share is left to the caller.
  void (*logit_slopes)(const LogitRow&, const LogitStatistics&, float logprob_grad, float entropy_grad,
                       float* logit_grads);
  double (*squares)(const float* x, int64_t n);
  void (*adamw)(const AdamFactors&, const AdamStretch&);
};

constexpr int QUERY_TILE = 48;    // queries whose scores are held at once, a multiple of every TILE_ROWS
constexpr int SCRATCH_UNIT = 16;  // floats; a cache line
constexpr int KEY_UNIT = 32;      // keys are padded to a multiple, whole panels of every instruction set

// static: the linker must not keep one copy, perhaps with the wrong instructions, for all objects.
static inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Working memory of attend and attend_backward for sequences of up to `length` tokens, in floats.
static inline int64_t attend_scratch(int64_t length, int64_t head_dim, bool backward) {
  const int64_t keys = round_up(length, KEY_UNIT), width = round_up(head_dim, SCRATCH_UNIT);
  const int64_t of_keys = (backward ? 5 : 2) * keys * width;  // keys, values, their gradients
  const int64_t of_scores = (backward ? 2 : 1) * QUERY_TILE * (keys + SCRATCH_UNIT);
  return of_keys + of_scores + 3 * QUERY_TILE * width + 2 * SCRATCH_UNIT;
}

// Those of the instruction set that ac_isa() names.
const TrainingKernels& training_kernels_here();

extern const TrainingKernels training_kernels_scalar, training_kernels_avx2, training_kernels_avx512,
    training_kernels_neon;

}  // namespace ac
