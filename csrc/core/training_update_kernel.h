// Sums of squares and AdamW over stretches of numbers. Products and sums are rounded one by one, as scalar code would, so
// every instruction set gives the same bits, wherever a tensor is cut.
#pragma once
#include "training_row_kernel.h"
#include "training_kernels.h"

namespace {

constexpr int SQUARES_TOGETHER = 16;  // sums side by side, as many for every instruction set

// Squares of floats are exact in double; only adding them rounds.
double squares(const float* x, int64_t n) {
  double sums[SQUARES_TOGETHER] = {};
  int64_t i = 0;
  for (; i + SQUARES_TOGETHER <= n; i += SQUARES_TOGETHER) {
#pragma GCC unroll 16
    for (int lane = 0; lane < SQUARES_TOGETHER; ++lane) {
      const double wide = x[i + lane];
      sums[lane] += wide * wide;
    }
  }
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * x[i];
  double total = 0.0;
  for (double sum : sums) total += sum;
  return total;
}

struct WideFactors {
  V gradient_scale, beta1, rest1, beta2, rest2, decay, step, epsilon;
};

struct AdamNumbers {
  V weight, moment1, moment2;
};

AC_INLINE AdamNumbers adam_numbers(const WideFactors& f, V gradient, const AdamNumbers& before) {
  const V g = mul(gradient, f.gradient_scale);
  AdamNumbers after;
  after.moment1 = add(mul(f.beta1, before.moment1), mul(f.rest1, g));
  after.moment2 = add(mul(f.beta2, before.moment2), mul(mul(f.rest2, g), g));
  const V way = div(after.moment1, add(sqrt(after.moment2), f.epsilon));
  after.weight = sub(sub(before.weight, mul(f.decay, before.weight)), mul(f.step, way));
  return after;
}

void adamw(const ac::AdamFactors& factors, const ac::AdamStretch& at) {
  const WideFactors f = {splat(factors.gradient_scale), splat(factors.beta1), splat(factors.rest1),
                         splat(factors.beta2),          splat(factors.rest2), splat(factors.decay),
                         splat(factors.step),           splat(factors.epsilon)};
  int64_t i = 0;
  for (; i + LANES <= at.count; i += LANES) {
    const AdamNumbers before = {load(at.weight + i), load(at.moment1 + i), load(at.moment2 + i)};
    const AdamNumbers after = adam_numbers(f, load(at.gradient + i), before);
    store(at.weight + i, after.weight);
    store(at.moment1 + i, after.moment1);
    store(at.moment2 + i, after.moment2);
  }
  const int64_t rest = at.count - i;
  if (rest == 0) return;
  const AdamNumbers before = {load_some(at.weight + i, rest), load_some(at.moment1 + i, rest),
                              load_some(at.moment2 + i, rest)};
  const AdamNumbers after = adam_numbers(f, load_some(at.gradient + i, rest), before);
  store_some(at.weight + i, rest, after.weight);
  store_some(at.moment1 + i, rest, after.moment1);
  store_some(at.moment2 + i, rest, after.moment2);
}

}  // namespace
