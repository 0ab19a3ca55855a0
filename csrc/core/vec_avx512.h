// 16 floats (AVX-512 F, BW, VL, DQ). min and max return their second argument when either is NaN.
#pragma once
#include <immintrin.h>

namespace {

constexpr int LANES = 16;
constexpr int TILE_ROWS = 12;  // 12 x 2 accumulators of 32 registers
struct V {
  __m512 v;
};

AC_INLINE V splat(float x) { return {_mm512_set1_ps(x)}; }
AC_INLINE V load(const float* from) { return {_mm512_loadu_ps(from)}; }
AC_INLINE void store(float* to, V x) { _mm512_storeu_ps(to, x.v); }
AC_INLINE V load(const int8_t* from) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))))};
}
AC_INLINE V load(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
// LANES pairs of bf16: the first of each pair and the second of each.
AC_INLINE void load_pairs(const uint16_t* from, V& first, V& second) {
  const __m512i pairs = _mm512_loadu_si512(from);
  first = {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
  second = {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
}
AC_INLINE V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
AC_INLINE V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
AC_INLINE V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
AC_INLINE V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
AC_INLINE V div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
AC_INLINE V sqrt(V x) { return {_mm512_sqrt_ps(x.v)}; }
AC_INLINE V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
AC_INLINE V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
AC_INLINE V round(V x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
AC_INLINE float sum(V x) { return _mm512_reduce_add_ps(x.v); }
AC_INLINE float largest(V x) { return _mm512_reduce_max_ps(x.v); }
// 2^n for whole n of -126..127
AC_INLINE V power_of_two(V n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
AC_INLINE V zero_where_less(V x, V limit, V value) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), value.v)};
}

}  // namespace
