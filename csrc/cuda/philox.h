// Random numbers addressed by (seed, sequence, position): Philox4x32-10 of Salmon et al. 2011. The specification is
// alignment/generation/random_numbers.py; the bits are the same.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace acu {

struct Words {
  uint32_t w0, w1, w2, w3;
};

__host__ __device__ inline Words philox(Words counter, uint32_t key0, uint32_t key1) {
  constexpr uint64_t MULTIPLIER0 = 0xD2511F53, MULTIPLIER1 = 0xCD9E8D57;
  constexpr uint32_t KEY_STEP0 = 0x9E3779B9, KEY_STEP1 = 0xBB67AE85;
  constexpr int ROUNDS = 10;
  for (int round = 0; round < ROUNDS; ++round) {
    const uint64_t left = counter.w0 * MULTIPLIER0, right = counter.w2 * MULTIPLIER1;
    counter = {static_cast<uint32_t>(right >> 32) ^ counter.w1 ^ key0, static_cast<uint32_t>(right),
               static_cast<uint32_t>(left >> 32) ^ counter.w3 ^ key1, static_cast<uint32_t>(left)};
    key0 += KEY_STEP0;
    key1 += KEY_STEP1;
  }
  return counter;
}

// In [0, 1), with 53 random bits.
__host__ __device__ inline double uniform(uint64_t seed, uint64_t sequence, uint32_t position) {
  const Words counter = {position, 0, static_cast<uint32_t>(sequence), static_cast<uint32_t>(sequence >> 32)};
  const Words words = philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const double high = words.w0 >> 5, low = words.w1 >> 6;  // 27 and 26 bits
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

}  // namespace acu
