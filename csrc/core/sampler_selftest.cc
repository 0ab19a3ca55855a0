// A program for sanitizers: the sampler over rows of many lengths in memory of exactly their size. Values are compared
// with the specification elsewhere (tests/unit/ops/test_native_sampler.py); here a token must only be a possible one
// and the same alone as in company.
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "alignment_core.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what, int vocab, int variant) {
  if (holds) return;
  std::printf("FAILED: %s (vocab %d, variant %d: %s)\n", what, vocab, variant, ac_last_error());
  ++failures;
}

AcSampling variant_options(int variant, int vocab) {
  AcSampling options = {};
  options.struct_bytes = sizeof(options);
  options.do_sample = variant % 4 != 3;
  options.top_k = variant % 3 == 1 ? 1 + vocab / 2 : 0;
  options.usable_vocab = variant % 5 == 4 ? 1 + vocab / 3 : vocab;
  options.temperature = variant % 2 ? 0.5f : 1.0f;
  options.repetition_penalty = 1.5f;
  options.top_p = variant % 7 < 3 ? 0.6 : 1.0;
  return options;
}

void test_rows_of(int vocab, int variant) {
  constexpr int ROWS = 3;
  const AcSampling options = variant_options(variant, vocab);
  std::vector<float> logits(static_cast<size_t>(ROWS) * vocab);
  std::vector<double> uniforms(ROWS), numbers(logits.size());
  std::vector<uint64_t> ids(logits.size(), variant);
  std::vector<uint32_t> places(logits.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<uint32_t>(i);
  ac_philox_uniform(7, static_cast<int32_t>(numbers.size()), ids.data(), places.data(), numbers.data());
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(std::floor(numbers[i] * 60) / 8 - 4);
  for (int row = 0; row < ROWS; ++row) uniforms[row] = row == 0 ? 0.0 : numbers[row];

  std::vector<uint8_t> marks(vocab, 1), forbid(ROWS, 1);
  const uint8_t* seen[ROWS] = {marks.data(), nullptr, marks.data()};
  const int32_t stops[] = {vocab - 1 > 0 ? vocab - 1 : vocab, vocab + 5};
  std::vector<int64_t> tokens(ROWS);
  std::vector<float> logprobs(ROWS);
  for (int threads : {1, 2}) {
    const int status = ac_sample(ROWS, vocab, logits.data(), uniforms.data(), &options, stops, 2, forbid.data(), seen,
                                 tokens.data(), logprobs.data(), threads);
    expect(status == AC_OK, "a call succeeds", vocab, variant);
    for (int row = 0; row < ROWS; ++row) {
      expect(tokens[row] >= 0 && tokens[row] < options.usable_vocab && tokens[row] != stops[0], "a token is possible",
             vocab, variant);
      expect(logprobs[row] <= 0 && std::isfinite(logprobs[row]), "a log-prob is one", vocab, variant);
      int64_t token;
      float logprob;
      ac_sample(1, vocab, &logits[static_cast<size_t>(row) * vocab], &uniforms[row], &options, stops, 2, &forbid[row],
                &seen[row], &token, &logprob, 1);
      expect(token == tokens[row] && logprob == logprobs[row], "a row alone is the same", vocab, variant);
    }
  }
  logits[vocab] = std::numeric_limits<float>::quiet_NaN();
  expect(ac_sample(ROWS, vocab, logits.data(), uniforms.data(), &options, stops, 2, nullptr, nullptr, tokens.data(),
                   logprobs.data(), 2) == AC_NOT_FINITE,
         "a NaN is refused", vocab, variant);
}

}  // namespace

int main() {
  for (const char* isa : {"scalar", "avx2", "avx512", "neon"}) {
    if (ac_set_isa(isa) != AC_OK) continue;
    for (int vocab : {1, 2, 7, 8, 9, 255, 256, 257}) {
      for (int variant = 0; variant < 35; ++variant) test_rows_of(vocab, variant);
    }
    std::printf("sampler, %s: %d failures\n", isa, failures);
  }
  return failures ? 1 : 0;
}
