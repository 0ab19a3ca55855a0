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

AC_INLINE V silu(V x) { return div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

}  // namespace
