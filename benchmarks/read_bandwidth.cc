// What one machine can read and multiply: the limits that engine_kernels.py measures the kernels against.
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace {

typedef float Floats __attribute__((vector_size(64)));
constexpr int STREAMS = 4;      // read side by side, 96 KiB apart: faster than one stream
constexpr int64_t APART = 1536;  // vectors

// Seconds: CPU time of a single thread, else of the wall clock.
double now(int threads) {
  if (threads > 1) return omp_get_wtime();
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

// Best GB/s of `rounds` passes over bytes of floats, each of `threads` reading its own stretch.
extern "C" double read_bandwidth(const float* data, int64_t bytes, int threads, int rounds, float* sum) {
  double best = 1e30;
  for (int round = 0; round < rounds; ++round) {
    const double start = now(threads);
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
      const int64_t rounds_of_thread = bytes / 64 / (STREAMS * APART) / omp_get_num_threads();
      const Floats* from =
          reinterpret_cast<const Floats*>(data) + STREAMS * APART * rounds_of_thread * omp_get_thread_num();
      Floats sums[STREAMS][2] = {};
      for (int64_t i = 0; i < rounds_of_thread * APART; i += 2) {
        const Floats* at = from + i / APART * STREAMS * APART + i % APART;
#pragma GCC unroll 4
        for (int s = 0; s < STREAMS; ++s) {
          sums[s][0] += at[s * APART];
          sums[s][1] += at[s * APART + 1];
        }
      }
      for (int s = 0; s < STREAMS; ++s) total += sums[s][0][0] + sums[s][1][15];
    }
    best = std::min(best, now(threads) - start);
    *sum = total;
  }
  return static_cast<double>(bytes) / best / 1e9;
}

// GFLOP/s of one thread's multiply-adds in registers.
extern "C" double multiply_rate(int64_t rounds, float* sum) {
  constexpr int CHAINS = 12;
  Floats sums[CHAINS] = {};
  Floats factor = {}, term = {};
  factor += 0.5f;
  term += 0.5f;
  for (int c = 0; c < CHAINS; ++c) sums[c] += static_cast<float>(c);  // chains that the compiler cannot merge
  const double start = now(1);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; ++c) sums[c] = sums[c] * factor + term;
  }
  const double seconds = now(1) - start;
  *sum = 0;
  for (int c = 0; c < CHAINS; ++c) *sum += sums[c][0];
  return static_cast<double>(rounds) * CHAINS * 32 / seconds / 1e9;
}
