// The C interface of training: checks, and work cut over threads such that no result depends on their number.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "alignment_training.h"
#include "errors.h"
#include "memory.h"
#include "training_kernels.h"

namespace ac {

const TrainingKernels& training_kernels_here() {
  const char* isa = ac_isa();
#if defined(AC_WITH_AVX512)
  if (std::strncmp(isa, "avx512", 6) == 0) return training_kernels_avx512;  // and avx512bf16
#endif
#if defined(AC_WITH_AVX2)
  if (std::strcmp(isa, "avx2") == 0) return training_kernels_avx2;
#endif
#if defined(AC_WITH_NEON)
  if (std::strcmp(isa, "neon") == 0) return training_kernels_neon;
#endif
  (void)isa;
  return training_kernels_scalar;
}

namespace {

constexpr int ROWS_TOGETHER = 64;       // whose weight gradients are added up before the sums are
constexpr int64_t NUMBERS_TOGETHER = 4096;  // of elementwise work

int team_of(int32_t threads) { return threads > 0 ? threads : omp_get_max_threads(); }

int32_t refuse(const std::string& sentence) { return fail(AC_BAD_ARGUMENT, sentence); }

// Run `work(begin, end)` over stretches of 0 .. count.
template <class Work>
void cut(int64_t count, int64_t together, int32_t threads, const Work& work) {
  const int64_t stretches = (count + together - 1) / together;
  const int team = static_cast<int>(std::min<int64_t>(team_of(threads), stretches));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (int64_t i = 0; i < stretches; ++i) work(i * together, std::min(count, (i + 1) * together));
}

// Working memory of the calling thread, kept for its next call: it grows to what the longest sequence needs.
float* working_memory(int64_t floats) {
  thread_local Memory kept;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (kept.bytes() < bytes) kept = Memory(bytes);
  return reinterpret_cast<float*>(kept.data());
}

int shared_of(const AcSequences& s, int sequence) { return s.shared ? s.shared[sequence] : 0; }
int length_of(const AcSequences& s, int sequence) {
  return shared_of(s, sequence) + s.starts[sequence + 1] - s.starts[sequence];
}

std::string find_problem(const AcSequences& s) {
  if (s.struct_bytes != static_cast<int32_t>(sizeof(AcSequences))) return "AcSequences is of another version";
  if (s.num_sequences < 0 || s.heads < 1 || s.kv_heads < 1 || s.head_dim < 1 || s.window < 0) {
    return "sizes must be positive";
  }
  if (s.heads % s.kv_heads != 0) {
    return std::to_string(s.heads) + " heads cannot share " + std::to_string(s.kv_heads) + " key heads";
  }
  if (!(s.cap >= 0)) return "the cap must not be negative";
  if (s.cosines && s.head_dim % 2 != 0) return "a rotated head has an even number of elements";
  int before = 0;  // the length of the sequence before
  for (int i = 0; i < s.num_sequences; ++i) {
    if (s.starts[i + 1] < s.starts[i]) return "starts must ascend";
    if (shared_of(s, i) < 0 || shared_of(s, i) > before) {
      return "sequence " + std::to_string(i) + " shares more tokens than the one before it has";
    }
    before = length_of(s, i);
    if (!s.first_queries) continue;
    const int count = s.query_starts[i + 1] - s.query_starts[i];
    if (count < 0 || s.first_queries[i] < shared_of(s, i) || s.first_queries[i] + count > before) {
      return "the queries of sequence " + std::to_string(i) + " are not among its tokens";
    }
  }
  if (s.first_queries && s.num_sequences > 0 && s.query_starts[0] != 0) return "the first query starts at 0";
  return s.num_sequences > 0 && s.starts[0] != 0 ? "the first sequence starts at 0" : "";
}

// Pointers of one attention call at token 0 and head 0.
struct AttentionArrays {
  const float *q, *k, *v;
  float *out, *statistics;
  const float* grad;
  float *q_grad, *k_grad, *v_grad;
};

SharedHead shared_head(const AcSequences& s, const AttentionArrays& at, int sequence, int kv_head) {
  const int32_t* query_starts = s.first_queries ? s.query_starts : s.starts;
  // Position 0: at least as many tokens stand before those of a sequence as it shares.
  const int64_t first = s.starts[sequence] - shared_of(s, sequence), first_query = query_starts[sequence];
  const int64_t group = s.heads / s.kv_heads, dim = s.head_dim;
  const int64_t query_stride = s.heads * dim, key_stride = s.kv_heads * dim;
  const int64_t query = first_query * query_stride + kv_head * group * dim, key = first * key_stride + kv_head * dim;
  SharedHead job = {};
  job.shared = shared_of(s, sequence);
  job.length = job.unwritten = length_of(s, sequence);
  job.head_dim = s.head_dim;
  job.first_query = s.first_queries ? s.first_queries[sequence] : job.shared;
  job.end_query = job.first_query + query_starts[sequence + 1] - query_starts[sequence];
  job.group = static_cast<int>(group);
  job.window = s.window;
  job.cap = s.cap;
  job.query_stride = query_stride;
  job.key_stride = key_stride;
  job.statistics_stride = 2 * static_cast<int64_t>(s.heads);
  if (s.cosines) {
    job.cosines = s.cosines + first * (dim / 2);
    job.sines = s.sines + first * (dim / 2);
  }
  job.q = at.q + query;
  job.k = at.k + key;
  job.v = at.v + key;
  job.out = at.out + query;
  job.statistics = at.statistics + first_query * job.statistics_stride + kv_head * group * 2;
  if (at.grad) {
    job.grad = at.grad + query;
    job.q_grad = at.q_grad + query;
    job.k_grad = at.k_grad + key;
    job.v_grad = at.v_grad + key;
  }
  return job;
}

// Sequences `first` .. `end` - 1, which share leading tokens.
struct Family {
  int first, end, longest;
};

std::vector<Family> find_families(const AcSequences& s) {
  std::vector<Family> families;
  for (int i = 0; i < s.num_sequences; ++i) {
    if (shared_of(s, i) == 0) families.push_back({i, i, 0});
    families.back().end = i + 1;
    families.back().longest = std::max(families.back().longest, length_of(s, i));
  }
  return families;
}

// Threads take one key head of one family of sequences at a time.
int32_t run_attention(const AcSequences& s, const AttentionArrays& arrays, int32_t threads) {
  const std::string problem = find_problem(s);
  if (!problem.empty()) return refuse("attention: " + problem);
  const std::vector<Family> families = find_families(s);
  int longest = 0, largest = 0;
  for (const Family& family : families) {
    longest = std::max(longest, family.longest);
    largest = std::max(largest, family.end - family.first);
  }
  const int64_t jobs = static_cast<int64_t>(families.size()) * s.kv_heads;
  const int team = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(team_of(threads), jobs)));
  const bool backward = arrays.grad != nullptr;
  const int64_t each = round_up(attend_scratch(longest, s.head_dim, backward), SCRATCH_UNIT);
  float* scratch;
  std::vector<SharedHead> heads;  // [team, largest]
  try {
    scratch = working_memory(each * team);
    heads.resize(static_cast<size_t>(largest) * team);
  } catch (const std::bad_alloc&) {
    return fail(AC_NO_MEMORY, "attention: no memory for its scores");
  }
  const auto run = backward ? training_kernels_here().attend_backward : training_kernels_here().attend;
  // Sequences differ in length, so whoever is free takes the next one. Not by schedule(dynamic): GCC's calls for it are
  // not in Paddle's OpenMP runtime.
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(team) if (team > 1)
  for (int64_t i = next++; i < jobs; i = next++) {
    const Family& family = families[i / s.kv_heads];
    SharedHead* own = heads.data() + static_cast<int64_t>(largest) * omp_get_thread_num();
    for (int member = family.first; member < family.end; ++member) {
      own[member - family.first] = shared_head(s, arrays, member, static_cast<int>(i % s.kv_heads));
      own[member - family.first].capacity = family.longest;
    }
    run(own, family.end - family.first, scratch + each * omp_get_thread_num());
  }
  return AC_OK;
}

std::string find_problem(const AcLogits& input) {
  if (input.struct_bytes != static_cast<int32_t>(sizeof(AcLogits))) return "AcLogits is of another version";
  if (input.rows < 0 || input.vocab < 1) return "sizes must be positive";
  if (!(input.temperature > 0)) return "the temperature must be above 0";
  for (int64_t row = 0; input.targets && row < input.rows; ++row) {
    const int64_t target = input.targets[row];
    if (target < 0 || target >= input.vocab) {
      return "target " + std::to_string(target) + " of row " + std::to_string(row) + " is not in 0 .. " +
             std::to_string(input.vocab - 1);
    }
  }
  return "";
}

LogitRow logit_row(const AcLogits& input, int64_t row) {
  return {input.logits + row * input.vocab, input.vocab, 1.0f / input.temperature};
}

}  // namespace
}  // namespace ac

extern "C" {

int32_t ac_rms_norm_forward(int64_t rows, int32_t width, const float* x, const float* weight, float eps, float* y,
                            float* scales, int32_t threads) {
  const auto normalise = ac::training_kernels_here().normalise;
  ac::cut(rows, ac::ROWS_TOGETHER, threads, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scales[row] = normalise(x + row * width, weight, width, eps, y + row * width);
    }
  });
  return AC_OK;
}

int32_t ac_rms_norm_backward(int64_t rows, int32_t width, const float* grad, const float* x, const float* weight,
                             const float* scales, float* x_grad, float* weight_grad, int32_t threads) {
  const auto backward = ac::training_kernels_here().normalise_backward;
  std::vector<float> sums;  // [stretch, width]
  try {
    sums.resize((rows + ac::ROWS_TOGETHER - 1) / ac::ROWS_TOGETHER * width);
  } catch (const std::bad_alloc&) {
    return ac::fail(AC_NO_MEMORY, "rms_norm: no memory for the weight's gradient");
  }
  float* first = sums.data();
  ac::cut(rows, ac::ROWS_TOGETHER, threads, [=](int64_t begin, int64_t end) {
    float* sum = first + begin / ac::ROWS_TOGETHER * width;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      backward(grad + at, x + at, weight, width, scales[row], x_grad + at, sum);
    }
  });
  std::fill(weight_grad, weight_grad + width, 0.0f);
  for (size_t at = 0; at < sums.size(); at += width) {
    for (int i = 0; i < width; ++i) weight_grad[i] += sums[at + i];
  }
  return AC_OK;
}

int32_t ac_swiglu_forward(int64_t count, const float* gate, const float* up, float* y, int32_t threads) {
  const auto run = ac::training_kernels_here().gate;
  ac::cut(count, ac::NUMBERS_TOGETHER, threads,
          [=](int64_t begin, int64_t end) { run(gate + begin, up + begin, end - begin, y + begin); });
  return AC_OK;
}

int32_t ac_swiglu_backward(int64_t count, const float* grad, const float* gate, const float* up, float* gate_grad,
                           float* up_grad, int32_t threads) {
  const auto run = ac::training_kernels_here().gate_backward;
  ac::cut(count, ac::NUMBERS_TOGETHER, threads, [=](int64_t begin, int64_t end) {
    run(grad + begin, gate + begin, up + begin, end - begin, gate_grad + begin, up_grad + begin);
  });
  return AC_OK;
}

int32_t ac_attention_forward(const AcSequences* sequences, const float* q, const float* k, const float* v, float* out,
                             float* statistics, int32_t threads) {
  ac::AttentionArrays arrays = {};
  arrays.q = q;
  arrays.k = k;
  arrays.v = v;
  arrays.out = out;
  arrays.statistics = statistics;
  return ac::run_attention(*sequences, arrays, threads);
}

int32_t ac_attention_backward(const AcSequences* sequences, const float* grad, const float* q, const float* k,
                              const float* v, const float* out, const float* statistics, float* q_grad, float* k_grad,
                              float* v_grad, int32_t threads) {
  // attend_backward only reads out and statistics
  const ac::AttentionArrays arrays = {q,    k,      v,      const_cast<float*>(out), const_cast<float*>(statistics),
                                      grad, q_grad, k_grad, v_grad};
  return ac::run_attention(*sequences, arrays, threads);
}

int32_t ac_logprobs_forward(const AcLogits* input, float* logprobs, float* entropies, float* statistics,
                            int32_t threads) {
  const std::string problem = ac::find_problem(*input);
  if (!problem.empty()) return ac::refuse("log-probs: " + problem);
  const auto summarise = ac::training_kernels_here().summarise;
  ac::cut(input->rows, 1, threads, [=](int64_t row, int64_t) {
    const ac::LogitRow job = ac::logit_row(*input, row);
    const ac::LogitStatistics found = summarise(job);
    statistics[2 * row] = found.top;
    statistics[2 * row + 1] = found.log_sum;
    entropies[row] = found.entropy;
    if (!input->targets) return;
    logprobs[row] = (job.logits[input->targets[row]] - found.top) * job.inverse_temperature - found.log_sum;
  });
  return AC_OK;
}

int32_t ac_logprobs_backward(const AcLogits* input, const float* entropies, const float* statistics,
                             const float* logprob_grads, const float* entropy_grads, float* logit_grads,
                             int32_t threads) {
  const std::string problem = ac::find_problem(*input);
  if (!problem.empty()) return ac::refuse("log-probs: " + problem);
  const auto slopes = ac::training_kernels_here().logit_slopes;
  ac::cut(input->rows, 1, threads, [=](int64_t row, int64_t) {
    const ac::LogitRow job = ac::logit_row(*input, row);
    const float logprob_grad = input->targets && logprob_grads ? logprob_grads[row] : 0.0f;
    const float entropy_grad = entropy_grads ? entropy_grads[row] : 0.0f;
    float* to = logit_grads + row * input->vocab;
    slopes(job, {statistics[2 * row], statistics[2 * row + 1], entropies[row]}, logprob_grad, entropy_grad, to);
    if (input->targets) to[input->targets[row]] += logprob_grad * job.inverse_temperature;
  });
  return AC_OK;
}

}  // extern "C"
