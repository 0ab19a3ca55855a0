// V: a vector of LANES floats, by the instruction set this file is compiled for. Everything is in an unnamed namespace,
// so that objects compiled for different sets can be linked together.
#pragma once
#include <cstdint>
#include <cstring>

#include "bfloat16.h"

#if defined(__AVX512F__)
#include "vec_avx512.h"
#elif defined(__AVX2__)
#include "vec_avx2.h"
#else
#include "vec_portable.h"
#endif

namespace {

#if defined(__AVX512BF16__)
AC_INLINE void store(uint16_t* to, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x.v));
}
#else
AC_INLINE void store(uint16_t* to, V x) {
  float lanes[LANES];
  store(lanes, x);
  for (int i = 0; i < LANES; ++i) to[i] = narrow(lanes[i]);
}
#endif

// Into the second-level cache: it takes more lines at a time from memory than the first.
AC_INLINE void prefetch(const void* from) { __builtin_prefetch(from, 0, 2); }

// e^x within 2 ulp (Cephes polynomial); 0 below -87.33, e^88.37 above that, NaN stays NaN.
AC_INLINE V exp(V x) {
  const V low = splat(-87.33f);
  const V clamped = min(splat(88.37f), max(low, x));
  const V n = round(mul(clamped, splat(1.44269504088896341f)));
  V r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  V p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, splat(1.0f)));
  return zero_where_less(x, low, mul(p, power_of_two(n)));
}

// tanh(x) within 2e-7
AC_INLINE V tanh(V x) {
  const V two = splat(2.0f), square = mul(x, x), limit = splat(0.0625f);
  const V far = sub(splat(1.0f), div(two, add(exp(mul(two, x)), splat(1.0f))));
  V near = splat(-17.0f / 315.0f);  // its series up to x^7, for x^2 below the limit
  near = fma(near, square, splat(2.0f / 15.0f));
  near = fma(near, square, splat(-1.0f / 3.0f));
  near = fma(mul(near, square), x, x);
  return add(zero_where_less(square, limit, sub(far, near)), near);
}

// erf(|x|) within 3e-7 (Abramowitz and Stegun 7.1.26)
AC_INLINE V erf_of_size(V size) {
  const V t = div(splat(1.0f), fma(size, splat(0.3275911f), splat(1.0f)));
  V p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  return sub(splat(1.0f), mul(mul(p, t), exp(sub(splat(0.0f), mul(size, size)))));
}

AC_INLINE V relu(V x) { return zero_where_less(x, splat(0.0f), x); }

// x (1 + erf(x / sqrt 2)) / 2 = (x + |x| erf(|x| / sqrt 2)) / 2
AC_INLINE V gelu(V x) {
  const V size = max(x, sub(splat(0.0f), x));
  return mul(splat(0.5f), fma(size, erf_of_size(mul(size, splat(0.70710678f))), x));
}

// x (1 + tanh(u)) / 2 = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
AC_INLINE V gelu_tanh(V x) {
  const V u = mul(mul(splat(-1.59576912f), x), fma(mul(x, x), splat(0.044715f), splat(1.0f)));
  return div(x, add(splat(1.0f), exp(u)));
}

AC_INLINE V silu(V x) { return div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

}  // namespace
