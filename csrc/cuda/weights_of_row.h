// A row's softmax weights, summed block by block in the order of csrc/core/sampler_kernels.cc, so that the device draws
// the tokens that the host would draw. Compile without contraction of a * b + c.
#pragma once
#include "layout.h"
#include "numbers.h"
#include "warp.h"

namespace acu {

constexpr int SUM_BLOCK = 256;  // weights that are summed together
constexpr int SUM_LANES = 8;    // chains of one block's sum

// exp(x) for x <= 0, down to the smallest positive float and then 0; the operations of csrc/core/sampler_kernels.cc.
__host__ __device__ inline float exp_not_positive(float x) {
  constexpr float LOWEST = -104.0f, LOG2_E = 1.44269504f, LOG2_HIGH = 0.693359375f, LOG2_LOW = -2.12194440e-4f;
  constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  if (x < LOWEST) return 0.0f;
  const float n = (x * LOG2_E + ROUNDER) - ROUNDER;
  const float r = (x - n * LOG2_HIGH) - n * LOG2_LOW;
  float tail = 1.0f / 5040.0f;
  tail = tail * r + 1.0f / 720.0f;
  tail = tail * r + 1.0f / 120.0f;
  tail = tail * r + 1.0f / 24.0f;
  tail = tail * r + 1.0f / 6.0f;
  tail = tail * r + 0.5f;
  const float power = (tail * (r * r) + r) + 1.0f;
  // 2^n in two factors: n reaches -150, and one float has no exponent below -126.
  const int exponent = static_cast<int>(n), half = exponent >> 1;
  return power * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
}

// weights[i] = weight_at(i) for i < vocab, else 0, up to a whole number of blocks; sums[b] are those of block b. All
// threads of the block call, and all see the result; since the last reading of `sums` they have met at a barrier.
template <class Function>
__device__ void fill_weights(Function weight_at, int vocab, float* weights, double* sums) {
  const int blocks = static_cast<int>(ceil_divide(vocab, SUM_BLOCK));
  const int groups = blockDim.x / SUM_LANES, group = threadIdx.x / SUM_LANES, lane = threadIdx.x % SUM_LANES;
  for (int first = 0; first < blocks; first += groups) {  // the same number of rounds in all lanes
    const int block = first + group;
    double sum = 0.0;
    for (int i = block * SUM_BLOCK + lane; block < blocks && i < (block + 1) * SUM_BLOCK; i += SUM_LANES) {
      const float weight = i < vocab ? weight_at(i) : 0.0f;
      weights[i] = weight;
      sum += static_cast<double>(weight);
    }
    sum = over_lanes(sum, Sum(), SUM_LANES);
    if (lane == 0 && block < blocks) sums[block] = sum;
  }
  __syncthreads();
}

// The sum of all blocks, by one chain.
__device__ inline double add_blocks(const double* sums, int blocks) {
  double total = 0.0;
  for (int block = 0; block < blocks; ++block) total += sums[block];
  return total;
}

// How much a weight counts: 1, or itself.
enum class Measure { count, sum };

// The smallest value v such that the weights <= v together measure more than goal, else 1, the largest weight. Floats
// that are not negative are ordered as their bits, so two bits of v are found at a time. All threads call.
template <Measure MEASURE>
__device__ float smallest_passing(const float* weights, int vocab, double goal) {
  uint32_t found = 0;
  for (int shift = 28; shift >= 0; shift -= 2) {
    double below[3] = {};  // what the weights measure that are below found + (1, 2, 3) << shift
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
      const uint32_t bits = as_bits(weights[i]);
      const double measure = MEASURE == Measure::count ? 1.0 : static_cast<double>(weights[i]);
#pragma unroll
      for (uint32_t step = 0; step < 3; ++step) {
        if (bits < found + ((step + 1) << shift)) below[step] += measure;
      }
    }
    uint32_t steps = 0;
#pragma unroll
    for (int step = 0; step < 3; ++step) steps += over_block(below[step], Sum()) <= goal;
    found += steps << shift;
  }
  return fminf(as_float(found), 1.0f);
}

}  // namespace acu
