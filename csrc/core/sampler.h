// Passes of the sampler over one row, one table of them for each instruction set. All sets give the same bits.
//
#pragma once

#include <stdint.h>

namespace ac {

constexpr int BLOCK = 256;  // weights that are summed together; as in alignment/generation/sampling.py

// A weight is exp(logit / divisor - top), at most 1. Passes over a vocabulary give the sum of every block's weights, in
// double precision; the last block may be shorter.
struct SamplerKernels {
  // The largest logit, NaN when any of them is NaN.
  float (*highest)(const float* logits, int vocab);
  // The first token whose logit / divisor is `scaled`; there is one.
  int (*first_equal)(const float* logits, int vocab, float divisor, float scaled);
  // out[i] = logits[i], less likely where seen[i] is not 0: divided by penalty if positive, else multiplied.
  void (*penalise)(const float* logits, const uint8_t* seen, int vocab, float penalty, float* out);
  void (*add_up)(const float* logits, int vocab, float divisor, float top, double* sums);
  // The weights, too, padded with 0 to whole blocks, and the largest of every block.
  void (*weigh)(const float* logits, int vocab, float divisor, float top, float* weights, float* tops, double* sums);
  // Set weights below bound to 0 and add up the blocks again.
  void (*drop_below)(float* weights, int padded, float bound, double* sums);
};

extern const SamplerKernels sampler_kernels_scalar, sampler_kernels_avx2, sampler_kernels_avx512, sampler_kernels_neon;

}  // namespace ac
