// Random numbers addressed by (seed, sequence, position): Philox4x32-10 of Salmon et al. 2011. The specification is
// alignment/generation/random_numbers.py; the bits are the same.
#include "alignment_core.h"

namespace {

struct Words {
  uint32_t w0, w1, w2, w3;
};

Words philox(Words counter, uint32_t key0, uint32_t key1) {
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

}  // namespace

void ac_philox_uniform(uint64_t seed, int32_t rows, const uint64_t* sequence_ids, const uint32_t* positions,
                       double* out) {
  for (int32_t row = 0; row < rows; ++row) {
    const uint64_t id = sequence_ids[row];
    const Words counter = {positions[row], 0, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)};
    const Words words = philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    const double high = words.w0 >> 5, low = words.w1 >> 6;  // 27 and 26 bits
    out[row] = (high * 67108864.0 + low) / 9007199254740992.0;
  }
}
