// One token for every row from its logits: the steps of alignment/generation/sampling.py in the same order, row by row.
// Rows share nothing, so a row's token depends neither on its neighbours nor on the number of threads.
#include "sampler.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "alignment_core.h"
#include "errors.h"

namespace ac {
namespace {

enum class Outcome : uint8_t { drawn, damaged, nothing_allowed };

// What all rows of a call share.
struct Task {
  int vocab, padded, num_stops;
  const int32_t* stops;
  const AcSampling* options;
  const SamplerKernels* kernels;
};

// Memory of one row: `padded` values each, but one sum and one largest weight for each block.
struct Scratch {
  float *allowed, *weights, *tops;
  double* sums;
};

// What a token is drawn from: weights are exp(logits / divisor - top).
struct Source {
  const float* logits;
  float divisor, top;
};

const SamplerKernels& kernels_here() {
  const char* isa = ac_isa();
#if defined(AC_WITH_AVX512)
  if (std::strncmp(isa, "avx512", 6) == 0) return sampler_kernels_avx512;  // and avx512bf16
#endif
#if defined(AC_WITH_AVX2)
  if (std::strcmp(isa, "avx2") == 0) return sampler_kernels_avx2;
#endif
#if defined(AC_WITH_NEON)
  if (std::strcmp(isa, "neon") == 0) return sampler_kernels_neon;
#endif
  (void)isa;
  return sampler_kernels_scalar;
}

// Return the k-th largest weight. The k-th largest of the blocks' largest is at most that, so only the blocks that
// reach it are searched. `spare` has room for all weights.
float kth_largest(const Scratch& row, int padded, int k, float* spare) {
  const int blocks = padded / BLOCK;
  float least = 0.0f;
  if (k < blocks) {
    std::copy(row.tops, row.tops + blocks, spare);
    std::nth_element(spare, spare + k - 1, spare + blocks, std::greater<float>());
    least = spare[k - 1];
  }
  int found = 0;
  for (int block = 0; block < blocks; ++block) {
    if (row.tops[block] < least) continue;
    for (int i = block * BLOCK; i < (block + 1) * BLOCK; ++i) {
      spare[found] = row.weights[i];
      found += row.weights[i] >= least;
    }
  }
  std::nth_element(spare, spare + k - 1, spare + found, std::greater<float>());
  return spare[k - 1];
}

uint32_t bits_of(float weight) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof(bits));
  return bits;
}

// Return the smallest value v such that the weights <= v add up to more than goal, else the largest weight. Floats that
// are not negative are ordered as their bits, so it is found in three rounds of ten bits: the bucket that passes the
// goal, then only its members. Weights of a bucket share their exponent, so in double precision their sum is exact, in
// whatever order they are added: four sums take turns. `members` has room for n values; `weights` may be `members`.
float smallest_passing(const float* weights, int n, double goal, float* members) {
  constexpr int BUCKETS = 1024, TURNS = 4;  // 1.0, the largest weight, has the bits 0x3F800000: below 2^30
  double below = 0.0;
  uint32_t found = 0;
  for (int shift = 20; shift >= 0; shift -= 10) {
    double held[TURNS][BUCKETS] = {};
    for (int i = 0; i < n; ++i) {
      held[i % TURNS][(bits_of(weights[i]) >> shift) & (BUCKETS - 1)] += static_cast<double>(weights[i]);
    }
    uint32_t chosen = 0;
    double before_chosen = below;
    for (uint32_t bucket = 0; bucket < BUCKETS; ++bucket) {
      const double sum = (held[0][bucket] + held[1][bucket]) + (held[2][bucket] + held[3][bucket]);
      if (sum == 0.0) continue;
      chosen = bucket, before_chosen = below;
      below += sum;
      if (below > goal) break;
    }
    below = before_chosen;
    found |= chosen << shift;
    int kept = 0;
    for (int i = 0; i < n; ++i) {
      const float weight = weights[i];
      members[kept] = weight;
      kept += ((bits_of(weight) >> shift) & (BUCKETS - 1)) == chosen;
    }
    weights = members, n = kept;
  }
  float value;
  std::memcpy(&value, &found, sizeof(value));
  return value;
}

double add_blocks(const double* sums, int blocks) {
  double total = 0.0;
  for (int block = 0; block < blocks; ++block) total += sums[block];
  return total;
}

// Whether only some of the allowed tokens may be drawn.
bool filters(const AcSampling& options, int vocab) {
  return options.do_sample && ((options.top_k > 0 && options.top_k < vocab) || options.top_p < 1.0);
}

// Set all weights but the top-k and then the top-p to 0; ties with the last one kept are kept.
void keep_likeliest(const Task& task, const Scratch& row, float* spare) {
  const AcSampling& options = *task.options;
  if (options.top_k > 0 && options.top_k < task.vocab) {
    const float bound = kth_largest(row, task.padded, options.top_k, spare);
    task.kernels->drop_below(row.weights, task.padded, bound, row.sums);
  }
  if (options.top_p < 1.0) {
    const double rest = (1.0 - options.top_p) * add_blocks(row.sums, task.padded / BLOCK);
    const float bound = smallest_passing(row.weights, task.vocab, rest, spare);
    task.kernels->drop_below(row.weights, task.padded, bound, row.sums);
  }
}

// Return the first token whose cumulative weight exceeds uniform * total: block by block, then inside one block, whose
// weights `weigh(block)` gives.
template <class Weigh>
int pick(const double* sums, int blocks, double uniform, Weigh weigh) {
  double goal = uniform * add_blocks(sums, blocks), before = 0.0;
  // Rounding can put the goal at the very total; the last block that has any weight is meant then.
  int chosen = 0;
  double before_chosen = 0.0;
  for (int block = 0; block < blocks; ++block) {
    const double after = before + sums[block];
    if (after > before) chosen = block, before_chosen = before;
    if (after > goal) break;
    before = after;
  }
  goal -= before_chosen;
  const float* weights = weigh(chosen);
  double sum = 0.0;
  int token = chosen * BLOCK;
  for (int i = 0; i < BLOCK; ++i) {
    if (!(weights[i] > 0.0f)) continue;
    token = chosen * BLOCK + i;
    sum += weights[i];
    if (sum > goal) break;
  }
  return token;
}

// Write logits after the penalty and the masks to row.allowed; false when they stay as they are.
bool restrict_logits(const Task& task, const float* logits, bool forbid_stops, const uint8_t* seen,
                     const Scratch& row) {
  const int usable = task.options->usable_vocab;
  bool forbids = false;
  for (int i = 0; i < task.num_stops; ++i) forbids |= forbid_stops && task.stops[i] < task.vocab;
  if (!seen && !forbids && usable >= task.vocab) return false;
  if (seen) {
    task.kernels->penalise(logits, seen, task.vocab, task.options->repetition_penalty, row.allowed);
  } else {
    std::memcpy(row.allowed, logits, sizeof(float) * task.vocab);
  }
  const float never = -std::numeric_limits<float>::infinity();
  for (int i = 0; forbids && i < task.num_stops; ++i) {
    if (task.stops[i] < task.vocab) row.allowed[task.stops[i]] = never;
  }
  for (int i = usable; i < task.vocab; ++i) row.allowed[i] = never;
  return true;
}

// Fill row.sums and, where filters need them, row.weights and row.tops.
void weigh(const Task& task, const Source& from, const Scratch& row) {
  const SamplerKernels& kernels = *task.kernels;
  if (!filters(*task.options, task.vocab)) {
    kernels.add_up(from.logits, task.vocab, from.divisor, from.top, row.sums);
  } else {
    kernels.weigh(from.logits, task.vocab, from.divisor, from.top, row.weights, row.tops, row.sums);
  }
}

int draw_from(const Task& task, const Source& from, double uniform, const Scratch& row) {
  const int blocks = task.padded / BLOCK;
  if (filters(*task.options, task.vocab)) {
    keep_likeliest(task, row, row.allowed);
    return pick(row.sums, blocks, uniform, [&](int block) { return row.weights + block * BLOCK; });
  }
  return pick(row.sums, blocks, uniform, [&](int block) {
    const int start = block * BLOCK;
    double sum;
    task.kernels->weigh(from.logits + start, std::min(BLOCK, task.vocab - start), from.divisor, from.top, row.weights,
                        row.tops, &sum);
    return row.weights;
  });
}

// Logits are read twice, once for the largest and once for the sum.
Outcome draw(const Task& task, const float* logits, double uniform, bool forbid_stops, const uint8_t* seen,
             const Scratch& row, int64_t* token, float* logprob) {
  const AcSampling& options = *task.options;
  const SamplerKernels& kernels = *task.kernels;
  Source from{logits, options.temperature, kernels.highest(logits, task.vocab) / options.temperature};
  if (!std::isfinite(from.top)) return Outcome::damaged;
  weigh(task, from, row);
  const double log_total = from.top + std::log(add_blocks(row.sums, task.padded / BLOCK));
  if (restrict_logits(task, logits, forbid_stops, seen, row)) {
    from = {row.allowed, options.do_sample ? options.temperature : 1.0f, 0.0f};
    from.top = kernels.highest(row.allowed, task.vocab) / from.divisor;
    if (!std::isfinite(from.top)) return Outcome::nothing_allowed;
    if (options.do_sample) weigh(task, from, row);
  }
  *token = options.do_sample ? draw_from(task, from, uniform, row)
                             : kernels.first_equal(from.logits, task.vocab, from.divisor, from.top);
  *logprob = static_cast<float>(logits[*token] / options.temperature - log_total);
  return Outcome::drawn;
}

// Return what is wrong with the call, "" when nothing is.
std::string find_mistake(int rows, int vocab, const AcSampling* options, const int32_t* stops, int num_stops,
                         int threads) {
  if (!options || options->struct_bytes != sizeof(AcSampling)) return "AcSampling is that of another version";
  if (rows < 0 || vocab < 1 || threads < 1) return "rows must be 0 or more, vocab and threads 1 or more";
  if (!(options->temperature > 0 && std::isfinite(options->temperature))) return "temperature must be above 0";
  if (!(options->repetition_penalty > 0 && std::isfinite(options->repetition_penalty))) {
    return "repetition_penalty must be above 0";
  }
  if (options->top_k < 0) return "top_k must be 0 or more";
  if (!(options->top_p > 0 && options->top_p <= 1)) return "top_p must be above 0 and at most 1";
  if (options->usable_vocab < 1) return "usable_vocab must be 1 or more";
  for (int i = 0; i < num_stops; ++i) {
    if (stops[i] < 0) return "stop tokens must be 0 or more";
  }
  return "";
}

// Return "" when every row has its token, else the first row that has none and why.
std::string describe_failures(const std::vector<Outcome>& outcomes) {
  size_t first = outcomes.size(), count = 0;
  for (size_t row = outcomes.size(); row-- > 0;) {
    if (outcomes[row] != Outcome::drawn) first = row, ++count;
  }
  if (!count) return "";
  const bool is_damaged = outcomes[first] == Outcome::damaged;
  return "logits of row " + std::to_string(first) + (is_damaged ? " are NaN or infinite" : " allow no token at all") +
         " (" + std::to_string(count) + " of " + std::to_string(outcomes.size()) + " rows have no token)";
}

}  // namespace
}  // namespace ac

using namespace ac;

int32_t ac_sample(int32_t rows, int32_t vocab, const float* logits, const double* uniforms, const AcSampling* options,
                  const int32_t* stop_tokens, int32_t num_stops, const uint8_t* forbid_stops,
                  const uint8_t* const* seen, int64_t* tokens, float* logprobs, int32_t threads) {
  const std::string mistake = find_mistake(rows, vocab, options, stop_tokens, num_stops, threads);
  if (!mistake.empty()) return fail(AC_BAD_ARGUMENT, mistake);
  const int padded = (vocab + BLOCK - 1) / BLOCK * BLOCK, blocks = padded / BLOCK;
  const Task task = {vocab, padded, num_stops, stop_tokens, options, &kernels_here()};
  const int workers = std::max(1, std::min(threads, rows));
  try {
    // Not set to zero: most calls touch little of it.
    const size_t row_floats = static_cast<size_t>(2) * padded + blocks;
    const std::unique_ptr<float[]> values(new float[row_floats * workers]);
    const std::unique_ptr<double[]> sums(new double[static_cast<size_t>(blocks) * workers]);
    std::vector<Outcome> outcomes(rows);
#pragma omp parallel for num_threads(workers) schedule(static)
    for (int32_t i = 0; i < rows; ++i) {
      const int worker = omp_get_thread_num();
      float* base = values.get() + row_floats * worker;
      const Scratch scratch = {base, base + padded, base + 2 * padded, sums.get() + static_cast<size_t>(blocks) * worker};
      outcomes[i] = draw(task, logits + static_cast<size_t>(i) * vocab, uniforms[i], forbid_stops && forbid_stops[i],
                         seen ? seen[i] : nullptr, scratch, &tokens[i], &logprobs[i]);
    }
    const std::string failures = describe_failures(outcomes);
    return failures.empty() ? AC_OK : fail(AC_NOT_FINITE, failures);
  } catch (const std::bad_alloc&) {
    return fail(AC_NO_MEMORY, "no memory to draw from rows of " + std::to_string(vocab) + " logits");
  }
}
