// 4 floats in the vector type of GCC and Clang: SSE2 on any x86-64, NEON (with fused multiply-add) on aarch64.
// min and max return their second argument when either is NaN.
#pragma once
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

constexpr int LANES = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Words __attribute__((vector_size(16)));
#if defined(__aarch64__)
constexpr int TILE_ROWS = 12;  // 12 x 2 accumulators of 32 registers
#else
constexpr int TILE_ROWS = 4;  // 4 x 2 accumulators of 16 registers
#endif
struct V {
  Floats v;
};

AC_INLINE V splat(float x) { return {Floats{x, x, x, x}}; }
AC_INLINE V load(const float* from) {
  V x;
  std::memcpy(&x.v, from, sizeof x.v);
  return x;
}
AC_INLINE void store(float* to, V x) { std::memcpy(to, &x.v, sizeof x.v); }
AC_INLINE V load(const int8_t* from) {
  return {Floats{static_cast<float>(from[0]), static_cast<float>(from[1]), static_cast<float>(from[2]),
                 static_cast<float>(from[3])}};
}
AC_INLINE V load(const uint16_t* from) {
  const Words halves = {from[0], from[1], from[2], from[3]};
  return {(Floats)(halves << 16)};
}
// LANES pairs of bf16: the first of each pair and the second of each.
AC_INLINE void load_pairs(const uint16_t* from, V& first, V& second) {
  Words pairs;
  std::memcpy(&pairs, from, sizeof pairs);
  first = {(Floats)(pairs << 16)};
  second = {(Floats)(pairs & static_cast<int32_t>(0xffff0000))};
}
#if defined(__aarch64__)
AC_INLINE V fma(V a, V b, V c) { return {(Floats)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)}; }
#else
AC_INLINE V fma(V a, V b, V c) { return {a.v * b.v + c.v}; }
#endif
AC_INLINE V add(V a, V b) { return {a.v + b.v}; }
AC_INLINE V sub(V a, V b) { return {a.v - b.v}; }
AC_INLINE V mul(V a, V b) { return {a.v * b.v}; }
AC_INLINE V div(V a, V b) { return {a.v / b.v}; }
#if defined(__aarch64__)
AC_INLINE V sqrt(V x) { return {(Floats)vsqrtq_f32((float32x4_t)x.v)}; }
#elif defined(__SSE__)
AC_INLINE V sqrt(V x) { return {(Floats)_mm_sqrt_ps((__m128)x.v)}; }
#else
AC_INLINE V sqrt(V x) {
  return {Floats{__builtin_sqrtf(x.v[0]), __builtin_sqrtf(x.v[1]), __builtin_sqrtf(x.v[2]), __builtin_sqrtf(x.v[3])}};
}
#endif
AC_INLINE V choose(Words where, V yes, V no) { return {(Floats)((where & (Words)yes.v) | (~where & (Words)no.v))}; }
AC_INLINE V max(V a, V b) { return choose(a.v > b.v, a, b); }
AC_INLINE V min(V a, V b) { return choose(a.v < b.v, a, b); }
// |x| below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction
AC_INLINE V round(V x) {
  const V shift = splat(12582912.0f);
  return sub(add(x, shift), shift);
}
AC_INLINE float sum(V x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
AC_INLINE float largest(V x) {
  const float a = x.v[0] > x.v[2] ? x.v[0] : x.v[2], b = x.v[1] > x.v[3] ? x.v[1] : x.v[3];
  return a > b ? a : b;
}
// 2^n for whole n of -126..127
AC_INLINE V power_of_two(V n) {
  return {(Floats)((__builtin_convertvector(n.v, Words) + 127) << 23)};
}
AC_INLINE V zero_where_less(V x, V limit, V value) { return choose(x.v < limit.v, splat(0.0f), value); }

}  // namespace
