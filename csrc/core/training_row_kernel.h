// Normalisation, gating and softmax over rows of numbers, with their gradients.
#pragma once
#include <cmath>

#include "row_kernel.h"
#include "training_kernels.h"

namespace {

float normalise_row(const float* x, const float* weight, int n, float eps, float* y) {
  const float scale = reciprocal_root_mean_square(x, n, eps);
  scale_row(x, weight, n, scale, y);
  return scale;
}

// sum of a * b * c
AC_INLINE float triple_dot(const float* a, const float* b, const float* c, int n) {
  V products = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) products = fma(mul(load(a + i), load(b + i)), load(c + i), products);
  float total = sum(products);
  for (; i < n; ++i) total += a[i] * b[i] * c[i];
  return total;
}

// y = x s w with s = 1 / sqrt(mean(x^2) + eps): dx = g w s - x s^3 sum(g w x) / n, dw += g x s
void normalise_backward(const float* grad, const float* x, const float* weight, int n, float scale, float* x_grad,
                        float* weight_grad) {
  const float shrink = scale * scale * scale * triple_dot(grad, x, weight, n) / static_cast<float>(n);
  const V wide_scale = splat(scale), wide_shrink = splat(shrink);
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    const V scaled = mul(load(grad + i), wide_scale), input = load(x + i);
    store(x_grad + i, sub(mul(scaled, load(weight + i)), mul(input, wide_shrink)));
    store(weight_grad + i, fma(scaled, input, load(weight_grad + i)));
  }
  for (; i < n; ++i) {
    const float scaled = grad[i] * scale;
    x_grad[i] = scaled * weight[i] - x[i] * shrink;
    weight_grad[i] += scaled * x[i];
  }
}

// 1 / (1 + e^-x)
AC_INLINE V sigmoid(V x) { return div(splat(1.0f), add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

AC_INLINE V gated(V gate, V up) { return mul(mul(gate, sigmoid(gate)), up); }

struct GateSlopes {
  V gate, up;
};

// s = sigmoid(gate): d up = g gate s, d gate = g up s (1 + gate (1 - s))
AC_INLINE GateSlopes gate_slopes(V grad, V gate, V up) {
  const V s = sigmoid(gate), one = splat(1.0f);
  return {mul(mul(grad, up), mul(s, fma(gate, sub(one, s), one))), mul(grad, mul(gate, s))};
}

// The last n < LANES numbers, then zeros.
AC_INLINE V load_some(const float* from, int64_t n) {
  float lanes[LANES] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = from[i];
  return load(lanes);
}

AC_INLINE void store_some(float* to, int64_t n, V x) {
  float lanes[LANES];
  store(lanes, x);
  for (int64_t i = 0; i < n; ++i) to[i] = lanes[i];
}

void gate(const float* gates, const float* ups, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(y + i, gated(load(gates + i), load(ups + i)));
  if (i < n) store_some(y + i, n - i, gated(load_some(gates + i, n - i), load_some(ups + i, n - i)));
}

void gate_backward(const float* grad, const float* gates, const float* ups, int64_t n, float* gate_grad,
                   float* up_grad) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const GateSlopes slopes = gate_slopes(load(grad + i), load(gates + i), load(ups + i));
    store(gate_grad + i, slopes.gate);
    store(up_grad + i, slopes.up);
  }
  if (i < n) {
    const int64_t rest = n - i;
    const V out_grad = load_some(grad + i, rest);
    const GateSlopes slopes = gate_slopes(out_grad, load_some(gates + i, rest), load_some(ups + i, rest));
    store_some(gate_grad + i, rest, slopes.gate);
    store_some(up_grad + i, rest, slopes.up);
  }
}

constexpr int SUM_BLOCK = 1024;       // exponentials added in float; blocks are added in double
constexpr float VANISHING = -104.0f;  // e^-104 is 0 in float, so is what is multiplied by it; log-probs go down to -inf

AC_INLINE V load_logits(const float* from, int64_t n) {
  if (n >= LANES) return load(from);
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = i < n ? from[i] : -INFINITY;
  return load(lanes);
}

float largest_logit(const float* logits, int n) {
  V top = splat(-INFINITY);
  for (int i = 0; i < n; i += LANES) top = max(load_logits(logits + i, n - i), top);
  return largest(top);
}

// With d = (logit - largest) / temperature: H = log sum e^d - sum d e^d / sum e^d
ac::LogitStatistics summarise(const ac::LogitRow& row) {
  const float top = largest_logit(row.logits, row.vocab);
  double total = 0.0, expected = 0.0;
  for (int block = 0; block < row.vocab; block += SUM_BLOCK) {
    const int end = row.vocab - block < SUM_BLOCK ? row.vocab : block + SUM_BLOCK;
    V weights = splat(0.0f), products = splat(0.0f);
    for (int i = block; i < end; i += LANES) {
      const V d = mul(sub(load_logits(row.logits + i, row.vocab - i), splat(top)), splat(row.inverse_temperature));
      const V weight = exp(d);
      weights = add(weights, weight);
      products = fma(weight, max(d, splat(VANISHING)), products);
    }
    total += sum(weights);
    expected += sum(products);
  }
  const double log_sum = std::log(total);
  return {top, static_cast<float>(log_sum), static_cast<float>(log_sum - expected / total)};
}

// d log p_y / d l = (1[y] - p) / T and d H / d l = -p (log p + H) / T; 1[y] is left to the caller.
void logit_slopes(const ac::LogitRow& row, const ac::LogitStatistics& known, float logprob_grad, float entropy_grad,
                  float* logit_grads) {
  const V top = splat(known.top), log_sum = splat(known.log_sum), scale = splat(row.inverse_temperature);
  const V of_entropy = splat(-entropy_grad * row.inverse_temperature), entropy = splat(known.entropy);
  const V of_logprob = splat(-logprob_grad * row.inverse_temperature);
  for (int i = 0; i < row.vocab; i += LANES) {
    const int rest = row.vocab - i;
    const V logprob = sub(mul(sub(load_logits(row.logits + i, rest), top), scale), log_sum);
    const V slope = fma(of_entropy, add(max(logprob, splat(VANISHING)), entropy), of_logprob);
    const V grad = mul(exp(logprob), slope);
    if (rest >= LANES) {
      store(logit_grads + i, grad);
    } else {
      store_some(logit_grads + i, rest, grad);
    }
  }
}

}  // namespace
