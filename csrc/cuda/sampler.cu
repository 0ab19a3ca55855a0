// One token for every row from its logits: the steps of alignment/generation/sampling.py in the same order, one block
// of threads a row.
#include <cmath>

#include "alignment_cuda.h"
#include "errors.h"
#include "launch.h"
#include "philox.h"
#include "weights_of_row.h"

namespace acu {
namespace {

constexpr int THREADS = 1024;
constexpr int SMALL_THREADS = 128;

enum Outcome { DRAWN = 0, DAMAGED = 1, NOTHING_ALLOWED = 2 };

struct Draw {
  int vocab, num_stops;
  const float* logits;
  const double* uniforms;
  AcSampling options;
  const int32_t* stops;
  const uint8_t* forbid_stops;
  const uint8_t* const* seen;
  int64_t* tokens;
  float* logprobs;
  int32_t* outcomes;
  float* weights;  // [rows, vocab rounded up to SUM_BLOCK]
};

int64_t padded_vocab(int vocab) { return ceil_divide(vocab, SUM_BLOCK) * SUM_BLOCK; }

// One row as a thread sees it.
struct Row {
  const Draw& job;
  const float* logits;
  const uint8_t* seen;
  bool forbids;

  __device__ Row(const Draw& draw, int row)
      : job(draw), logits(draw.logits + static_cast<int64_t>(row) * draw.vocab),
        seen(draw.seen ? draw.seen[row] : nullptr), forbids(draw.forbid_stops && draw.forbid_stops[row]) {}

  __device__ bool is_restricted() const {
    bool forbids_one = false;
    for (int i = 0; i < job.num_stops; ++i) forbids_one |= forbids && job.stops[i] < job.vocab;
    return seen || forbids_one || job.options.usable_vocab < job.vocab;
  }

  __device__ float scaled(int i) const { return logits[i] / job.options.temperature; }

  // After penalty and masks; at the temperature when a token is drawn.
  __device__ float allowed(int i) const {
    bool is_forbidden = i >= job.options.usable_vocab;
    for (int stop = 0; forbids && stop < job.num_stops; ++stop) is_forbidden |= job.stops[stop] == i;
    if (is_forbidden) return -INFINITY;
    float x = logits[i];
    if (seen && seen[i]) x = x < 0 ? x * job.options.repetition_penalty : x / job.options.repetition_penalty;
    return job.options.do_sample ? x / job.options.temperature : x;
  }
};

// The largest of value_at(0 .. vocab - 1), NaN when any of them is NaN.
template <class Function>
__device__ float find_largest(Function value_at, int vocab) {
  float top = -INFINITY;
  int is_damaged = 0;
  for (int i = threadIdx.x; i < vocab; i += THREADS) {
    const float x = value_at(i);
    is_damaged |= x != x;
    top = fmaxf(top, x);
  }
  top = over_block(top, Largest());
  return over_block(is_damaged, Largest()) ? NAN : top;
}

template <class Function>
__device__ int find_first(Function value_at, float wanted, int vocab) {
  int first = vocab;
  for (int i = threadIdx.x; i < vocab; i += THREADS) {
    if (value_at(i) == wanted) first = smaller(first, i);
  }
  return over_block(first, Smallest());
}

// Set all weights but the top-k and then the top-p to 0; ties with the last one kept are kept.
__device__ void keep_likeliest(const Draw& job, float* weights, double* sums) {
  const auto kept_from = [&](float bound) {
    return [=](int i) { return weights[i] >= bound ? weights[i] : 0.0f; };
  };
  if (job.options.top_k > 0 && job.options.top_k < job.vocab) {
    const float bound = smallest_passing<Measure::count>(weights, job.vocab, job.vocab - job.options.top_k);
    fill_weights(kept_from(bound), job.vocab, weights, sums);
  }
  if (job.options.top_p < 1.0) {
    const int blocks = static_cast<int>(ceil_divide(job.vocab, SUM_BLOCK));
    const double goal = (1.0 - job.options.top_p) * add_blocks(sums, blocks);
    const float bound = smallest_passing<Measure::sum>(weights, job.vocab, goal);
    fill_weights(kept_from(bound), job.vocab, weights, sums);
  }
}

// The first token whose cumulative weight exceeds uniform * total: block by block, then inside one block. One thread.
__device__ int pick(const float* weights, const double* sums, int vocab, double uniform) {
  const int blocks = static_cast<int>(ceil_divide(vocab, SUM_BLOCK));
  double goal = uniform * add_blocks(sums, blocks), before = 0.0, before_chosen = 0.0;
  // Rounding can put the goal at the very total; the last block that has any weight is meant then.
  int chosen = 0;
  for (int block = 0; block < blocks; ++block) {
    const double after = before + sums[block];
    if (after > before) chosen = block, before_chosen = before;
    if (after > goal) break;
    before = after;
  }
  goal -= before_chosen;
  double sum = 0.0;
  int token = chosen * SUM_BLOCK;
  for (int i = chosen * SUM_BLOCK; i < (chosen + 1) * SUM_BLOCK; ++i) {
    if (!(weights[i] > 0.0f)) continue;
    token = i;
    sum += static_cast<double>(weights[i]);
    if (sum > goal) break;
  }
  return token;
}

__device__ void finish(const Draw& job, int row, Outcome outcome, int token, float logprob) {
  if (threadIdx.x != 0) return;
  job.outcomes[row] = outcome;
  job.tokens[row] = token;
  job.logprobs[row] = logprob;
}

__global__ void __launch_bounds__(THREADS) draw_kernel(Draw job) {
  double* sums = dynamic_shared();  // one for each SUM_BLOCK weights
  const Row row(job, blockIdx.x);
  const int vocab = job.vocab, blocks = static_cast<int>(ceil_divide(vocab, SUM_BLOCK));
  float* weights = job.weights + static_cast<int64_t>(blockIdx.x) * blocks * SUM_BLOCK;
  const auto scaled = [&](int i) { return row.scaled(i); };
  const auto allowed = [&](int i) { return row.allowed(i); };
  const float top = find_largest(scaled, vocab);
  if (!is_finite(top)) return finish(job, blockIdx.x, DAMAGED, 0, NAN);
  fill_weights([&](int i) { return exp_not_positive(scaled(i) - top); }, vocab, weights, sums);
  const double log_total = top + log(add_blocks(sums, blocks));
  const bool is_restricted = row.is_restricted();
  const float highest = is_restricted ? find_largest(allowed, vocab) : top;
  if (!is_finite(highest)) return finish(job, blockIdx.x, NOTHING_ALLOWED, 0, NAN);
  int token;
  if (job.options.do_sample) {
    if (is_restricted) {
      fill_weights([&](int i) { return exp_not_positive(allowed(i) - highest); }, vocab, weights, sums);
    }
    keep_likeliest(job, weights, sums);
    token = threadIdx.x == 0 ? pick(weights, sums, vocab, job.uniforms[blockIdx.x]) : 0;
  } else {
    token = is_restricted ? find_first(allowed, highest, vocab) : find_first(scaled, top, vocab);
  }
  const float logprob = threadIdx.x == 0 ? static_cast<float>(scaled(token) - log_total) : 0.0f;
  finish(job, blockIdx.x, DRAWN, token, logprob);
}

__global__ void uniform_kernel(uint64_t seed, int rows, const uint64_t* ids, const uint32_t* positions, double* out) {
  const int row = blockIdx.x * SMALL_THREADS + threadIdx.x;
  if (row < rows) out[row] = uniform(seed, ids[row], positions[row]);
}

__global__ void advance_kernel(int rows, const int64_t* sampled, int32_t* tokens, int32_t* positions, uint32_t* draws,
                               uint8_t* const* seen) {
  const int row = blockIdx.x * SMALL_THREADS + threadIdx.x;
  if (row >= rows) return;
  tokens[row] = static_cast<int32_t>(sampled[row]);
  ++positions[row];
  ++draws[row];
  if (seen && seen[row]) seen[row][sampled[row]] = 1;
}

// Return what is wrong with the call, "" when nothing is.
std::string find_mistake(int rows, int vocab, const AcSampling* options, int num_stops) {
  if (!options || options->struct_bytes != sizeof(AcSampling)) return "AcSampling is that of another version";
  if (rows < 0 || vocab < 1 || num_stops < 0) return "rows and num_stops must be 0 or more, vocab 1 or more";
  if (!(options->temperature > 0 && std::isfinite(options->temperature))) return "temperature must be above 0";
  if (!(options->repetition_penalty > 0 && std::isfinite(options->repetition_penalty))) {
    return "repetition_penalty must be above 0";
  }
  if (options->top_k < 0) return "top_k must be 0 or more";
  if (!(options->top_p > 0 && options->top_p <= 1)) return "top_p must be above 0 and at most 1";
  if (options->usable_vocab < 1) return "usable_vocab must be 1 or more";
  if (ceil_divide(vocab, SUM_BLOCK) * sizeof(double) > 40000) return "vocab must be at most 1280000";
  return "";
}

dim3 enough_blocks(int rows) { return dim3(static_cast<unsigned>(ceil_divide(rows, SMALL_THREADS))); }

}  // namespace
}  // namespace acu

extern "C" {

int64_t acu_sample_bytes(int32_t rows, int32_t vocab) { return rows * acu::padded_vocab(vocab) * sizeof(float); }

int32_t acu_sample(int32_t rows, int32_t vocab, const float* logits, const double* uniforms, const AcSampling* sampling,
                   const int32_t* stop_tokens, int32_t num_stops, const uint8_t* forbid_stops,
                   const uint8_t* const* seen, int64_t* tokens, float* logprobs, int32_t* outcomes, void* workspace,
                   void* stream) {
  const std::string mistake = acu::find_mistake(rows, vocab, sampling, num_stops);
  if (!mistake.empty()) return acu::fail(AC_BAD_ARGUMENT, mistake);
  const acu::Draw job{vocab,        num_stops, logits, uniforms, *sampling, stop_tokens,
                      forbid_stops, seen,      tokens, logprobs, outcomes,  static_cast<float*>(workspace)};
  const size_t shared = acu::padded_vocab(vocab) / acu::SUM_BLOCK * sizeof(double);
  acu::launch(acu::draw_kernel, dim3(rows), acu::THREADS, shared, static_cast<cudaStream_t>(stream), job);
  return acu::check_device("acu_sample");
}

int32_t acu_philox_uniform(uint64_t seed, int32_t rows, const uint64_t* sequence_ids, const uint32_t* positions,
                           double* out, void* stream) {
  acu::launch(acu::uniform_kernel, acu::enough_blocks(rows), acu::SMALL_THREADS, 0, static_cast<cudaStream_t>(stream),
              seed, rows, sequence_ids, positions, out);
  return acu::check_device("acu_philox_uniform");
}

int32_t acu_advance(int32_t rows, const int64_t* sampled, int32_t* tokens, int32_t* positions, uint32_t* draws,
                    uint8_t* const* seen, void* stream) {
  acu::launch(acu::advance_kernel, acu::enough_blocks(rows), acu::SMALL_THREADS, 0, static_cast<cudaStream_t>(stream),
              rows, sampled, tokens, positions, draws, seen);
  return acu::check_device("acu_advance");
}

}  // extern "C"
