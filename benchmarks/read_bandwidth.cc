// What one machine can read and multiply: the limits that engine_kernels.py measures the kernels against.
#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace {

typedef float Floats __attribute__((vector_size(64)));
constexpr int STREAMS = 8;  // independent sums, so that adding never waits

}  // namespace

// Best GB/s of `rounds` passes over bytes of floats, each of `threads` reading its own stretch.
extern "C" double read_bandwidth(const float* data, int64_t bytes, int threads, int rounds, float* sum) {
  double best = 1e30;
  for (int round = 0; round < rounds; ++round) {
    const double start = omp_get_wtime();
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
      const int64_t stretch = bytes / 64 / omp_get_num_threads() / STREAMS * STREAMS;
      const Floats* from = reinterpret_cast<const Floats*>(data) + stretch * omp_get_thread_num();
      Floats sums[STREAMS] = {};
      for (int64_t i = 0; i < stretch; i += STREAMS) {
        for (int s = 0; s < STREAMS; ++s) sums[s] += from[i + s];
      }
      for (int s = 0; s < STREAMS; ++s) total += sums[s][0] + sums[s][15];
    }
    best = std::min(best, omp_get_wtime() - start);
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
  const double start = omp_get_wtime();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; ++c) {
      sums[c] = sums[c] * factor + term;
      asm volatile("" : "+v"(sums[c]));
    }
  }
  const double seconds = omp_get_wtime() - start;
  *sum = 0;
  for (int c = 0; c < CHAINS; ++c) *sum += sums[c][0];
  return static_cast<double>(rounds) * CHAINS * 32 / seconds / 1e9;
}
