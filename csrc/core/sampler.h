// Passes of the sampler over one row, one table of them for each instruction set. All sets give the same bits.
//
// Rows in scratch memory are padded to whole blocks of BLOCK values; the padding never changes a result.
#pragma once

#include <stdint.h>

namespace ac {

constexpr int BLOCK = 256;  // weights that are summed together; as in alignment/generation/sampling.py

struct SamplerKernels {
  // scaled[i] = logits[i] / divisor, padded with -inf. Returns the largest, NaN when any of them is NaN.
  float (*scale)(const float* logits, int vocab, float divisor, float* scaled);
  // out[i] = logits[i], less likely where seen[i] is not 0: divided by penalty if positive, else multiplied.
  void (*penalise)(const float* logits, const uint8_t* seen, int vocab, float penalty, float* out);
  // weights[i] = exp(scaled[i] - top), at most 1; sums[b]: those of block b, added up in double precision.
  void (*exponentiate)(const float* scaled, int padded, float top, float* weights, double* sums);
  // Set weights below bound to 0 and add up the blocks again.
  void (*drop_below)(float* weights, int padded, float bound, double* sums);
};

extern const SamplerKernels sampler_kernels_scalar, sampler_kernels_avx2, sampler_kernels_avx512, sampler_kernels_neon;

}  // namespace ac

