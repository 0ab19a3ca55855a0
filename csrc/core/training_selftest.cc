// A program for sanitizers: the training kernels over many shapes in memory of exactly their size. Values are compared
// with the references elsewhere (tests/unit/ops/test_training_ops.py); here they must only be numbers, and the same for
// any number of threads.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "alignment_training.h"

namespace {

typedef std::vector<float> Floats;
int failures = 0;

void expect(bool holds, const char* what, int shape) {
  if (holds) return;
  std::printf("FAILED: %s (shape %d: %s)\n", what, shape, ac_last_error());
  ++failures;
}

Floats draw(size_t count, int seed) {
  Floats numbers(count);
  for (size_t i = 0; i < count; ++i) numbers[i] = std::sin(static_cast<float>(i * 7 + seed * 31));
  return numbers;
}

bool all_finite(const Floats& numbers) {
  for (float x : numbers) {
    if (!std::isfinite(x)) return false;
  }
  return true;
}

// Runs `work(threads, results)` on one and on three threads and compares the results.
template <class Work>
void compare(const char* what, int shape, const Work& work) {
  const std::vector<Floats> alone = work(1), shared = work(3);
  for (size_t i = 0; i < alone.size(); ++i) {
    expect(all_finite(alone[i]), what, shape);
    const size_t bytes = alone[i].size() * sizeof(float);
    const bool same = bytes == 0 || std::memcmp(alone[i].data(), shared[i].data(), bytes) == 0;
    expect(same, "the same on three threads", shape);
  }
}

void test_rows(int rows, int width) {
  const size_t count = static_cast<size_t>(rows) * width;
  const Floats x = draw(count, 1), other = draw(count, 2), grad = draw(count, 3), weight = draw(width, 4);
  compare("rms_norm", width, [&](int threads) {
    Floats y(count), scales(rows), x_grad(count), weight_grad(width);
    ac_rms_norm_forward(rows, width, x.data(), weight.data(), 1e-3f, y.data(), scales.data(), threads);
    ac_rms_norm_backward(rows, width, grad.data(), x.data(), weight.data(), scales.data(), x_grad.data(),
                         weight_grad.data(), threads);
    return std::vector<Floats>{y, scales, x_grad, weight_grad};
  });
  compare("swiglu", width, [&](int threads) {
    Floats y(count), x_grad(count), other_grad(count);
    ac_swiglu_forward(static_cast<int64_t>(count), x.data(), other.data(), y.data(), threads);
    ac_swiglu_backward(static_cast<int64_t>(count), grad.data(), x.data(), other.data(), x_grad.data(),
                       other_grad.data(), threads);
    return std::vector<Floats>{y, x_grad, other_grad};
  });
}

void test_logits(int rows, int vocab) {
  const Floats logits = draw(static_cast<size_t>(rows) * vocab, 1), grad = draw(rows, 2), entropy_grad = draw(rows, 3);
  std::vector<int64_t> targets(rows);
  for (int i = 0; i < rows; ++i) targets[i] = i * 5 % vocab;
  AcLogits input = {sizeof(AcLogits), vocab, rows, logits.data(), targets.data(), 0.5f};
  compare("log-probs", vocab, [&](int threads) {
    Floats logprobs(rows), entropies(rows), statistics(2 * rows), logit_grad(logits.size());
    ac_logprobs_forward(&input, logprobs.data(), entropies.data(), statistics.data(), threads);
    ac_logprobs_backward(&input, entropies.data(), statistics.data(), grad.data(), entropy_grad.data(),
                         logit_grad.data(), threads);
    return std::vector<Floats>{logprobs, entropies, logit_grad};
  });
  targets[0] = vocab;
  Floats none(2 * rows);
  expect(ac_logprobs_forward(&input, none.data(), none.data(), none.data(), 1) == AC_BAD_ARGUMENT, "refuses", vocab);
}

void test_attention(int head_dim, int window, bool rotated, float cap = 0.0f) {
  const std::vector<int32_t> starts = {0, 1, 1, 50, 50 + 97};
  const int tokens = starts.back(), heads = 4, kv_heads = 2;
  const size_t queries = static_cast<size_t>(tokens) * heads * head_dim, keys = queries / heads * kv_heads;
  const Floats q = draw(queries, 1), k = draw(keys, 2), v = draw(keys, 3), grad = draw(queries, 4);
  const Floats cosines = draw(static_cast<size_t>(tokens) * (head_dim / 2), 5), sines = draw(cosines.size(), 6);
  AcSequences sequences = {};
  sequences.struct_bytes = sizeof(sequences);
  sequences.num_sequences = static_cast<int32_t>(starts.size()) - 1;
  sequences.heads = heads;
  sequences.kv_heads = kv_heads;
  sequences.head_dim = head_dim;
  sequences.window = window;
  sequences.cap = cap;
  sequences.starts = starts.data();
  sequences.cosines = rotated ? cosines.data() : nullptr;
  sequences.sines = rotated ? sines.data() : nullptr;
  compare("attention", head_dim, [&](int threads) {
    Floats out(queries), statistics(static_cast<size_t>(tokens) * heads * 2);
    Floats q_grad(queries), k_grad(keys), v_grad(keys);
    ac_attention_forward(&sequences, q.data(), k.data(), v.data(), out.data(), statistics.data(), threads);
    ac_attention_backward(&sequences, grad.data(), q.data(), k.data(), v.data(), out.data(), statistics.data(),
                          q_grad.data(), k_grad.data(), v_grad.data(), threads);
    return std::vector<Floats>{out, q_grad, k_grad, v_grad};
  });
  // The queries of each sequence are its last three tokens, or all that it has.
  const std::vector<int32_t> firsts = {0, 0, 46, 94}, query_starts = {0, 1, 1, 4, 7};
  const size_t few = static_cast<size_t>(query_starts.back()) * heads * head_dim;
  sequences.first_queries = firsts.data();
  sequences.query_starts = query_starts.data();
  const Floats few_q = draw(few, 7), few_grad = draw(few, 8);
  compare("attention of ranges", head_dim, [&](int threads) {
    Floats out(few), statistics(static_cast<size_t>(query_starts.back()) * heads * 2);
    Floats q_grad(few), k_grad(keys), v_grad(keys);
    ac_attention_forward(&sequences, few_q.data(), k.data(), v.data(), out.data(), statistics.data(), threads);
    ac_attention_backward(&sequences, few_grad.data(), few_q.data(), k.data(), v.data(), out.data(),
                          statistics.data(), q_grad.data(), k_grad.data(), v_grad.data(), threads);
    return std::vector<Floats>{out, q_grad, k_grad, v_grad};
  });
  // The third sequence shares 20 tokens of the second, the fourth all but one of the third's, the fifth nothing.
  const std::vector<int32_t> shared = {0, 0, 20, 39, 0}, more_starts = {0, 1, 34, 54, 54, 50 + 97};
  sequences.first_queries = sequences.query_starts = nullptr;
  sequences.num_sequences = static_cast<int32_t>(shared.size());
  sequences.starts = more_starts.data();
  sequences.shared = shared.data();
  compare("attention of a forest", head_dim, [&](int threads) {
    Floats out(queries), statistics(static_cast<size_t>(tokens) * heads * 2);
    Floats q_grad(queries), k_grad(keys), v_grad(keys);
    ac_attention_forward(&sequences, q.data(), k.data(), v.data(), out.data(), statistics.data(), threads);
    ac_attention_backward(&sequences, grad.data(), q.data(), k.data(), v.data(), out.data(), statistics.data(),
                          q_grad.data(), k_grad.data(), v_grad.data(), threads);
    return std::vector<Floats>{out, q_grad, k_grad, v_grad};
  });
  const std::vector<int32_t> too_many = {0, 2, 0, 0, 0};
  sequences.shared = too_many.data();
  expect(ac_attention_forward(&sequences, q.data(), k.data(), v.data(), nullptr, nullptr, 1) == AC_BAD_ARGUMENT,
         "refuses to share more than there is", head_dim);
  sequences.kv_heads = 3;
  expect(ac_attention_forward(&sequences, q.data(), k.data(), v.data(), nullptr, nullptr, 1) == AC_BAD_ARGUMENT,
         "refuses heads that cannot share", head_dim);
}

void test_update(int count) {
  const size_t numbers = static_cast<size_t>(count);
  const Floats gradient = draw(numbers, 1), start = draw(numbers, 2), other = draw(3, 3);
  compare("update", count, [&](int threads) {
    Floats weight = start, moment1(numbers), moment2(numbers), few = other, few1(3), few2(3), powers = {0.9f, 0.99f};
    Floats few_powers = powers;
    const AcNumbers parts[] = {{count, gradient.data()}, {0, nullptr}, {3, other.data()}};
    double sums[3] = {};
    expect(ac_sum_of_squares(3, parts, sums, threads) == AC_OK && sums[1] == 0.0, "sums squares", count);
    const AcAdam adam = {sizeof(AcAdam), sizeof(AcAdamTensor), 0.1f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.5f};
    const AcAdamTensor tensors[] = {
        {count, gradient.data(), weight.data(), moment1.data(), moment2.data(), &powers[0], &powers[1], 1},
        {3, other.data(), few.data(), few1.data(), few2.data(), &few_powers[0], &few_powers[1], 0}};
    for (int step = 0; step < 2; ++step) expect(ac_adamw(&adam, 2, tensors, threads) == AC_OK, "updates", count);
    return std::vector<Floats>{weight, moment1, moment2, few, powers, {static_cast<float>(sums[0])}};
  });
  compare("add_rows", count, [&](int threads) {
    Floats total(3 * numbers);
    const int64_t ids[] = {2, 0, 2}, beyond[] = {3};
    const Floats added = draw(3 * numbers, 4);
    expect(ac_add_rows(3, count, ids, added.data(), total.data(), 3, threads) == AC_OK, "adds rows", count);
    expect(ac_add_rows(1, count, beyond, added.data(), total.data(), 3, threads) == AC_BAD_ARGUMENT, "refuses", count);
    return std::vector<Floats>{total};
  });
  AcAdam older = {};
  expect(ac_adamw(&older, 0, nullptr, 1) == AC_BAD_ARGUMENT, "refuses another version", count);
}

}  // namespace

int main() {
  for (const char* isa : {"scalar", "avx2", "avx512", "neon"}) {
    if (ac_set_isa(isa) != AC_OK) continue;
    for (int width : {1, 3, 8, 33, 100}) test_rows(130, width);
    for (int vocab : {1, 7, 16, 1030}) test_logits(5, vocab);
    for (int count : {1, 15, 16, 33, 50001}) test_update(count);
    for (int window : {0, 1, 40}) {
      for (int head_dim : {2, 6, 16, 40}) test_attention(head_dim, window, true);
      test_attention(7, window, false);
      test_attention(6, window, true, 0.5f);
    }
    std::printf("%s: %s\n", isa, failures == 0 ? "all shapes" : "FAILED");
  }
  return failures == 0 ? 0 : 1;
}
