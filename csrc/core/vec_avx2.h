// 8 floats (AVX2, FMA). min and max return their second argument when either is NaN.
#pragma once
#include <immintrin.h>

namespace {

constexpr int LANES = 8;
constexpr int TILE_ROWS = 6;  // 6 x 2 accumulators of 16 registers
struct V {
  __m256 v;
};

AC_INLINE V splat(float x) { return {_mm256_set1_ps(x)}; }
AC_INLINE V load(const float* from) { return {_mm256_loadu_ps(from)}; }
AC_INLINE void store(float* to, V x) { _mm256_storeu_ps(to, x.v); }
AC_INLINE V load(const int8_t* from) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))))};
}
AC_INLINE V load(const uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
// LANES pairs of bf16: the first of each pair and the second of each.
AC_INLINE void load_pairs(const uint16_t* from, V& first, V& second) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  first = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
  second = {_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))))};
}
AC_INLINE V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
AC_INLINE V add(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
AC_INLINE V sub(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
AC_INLINE V mul(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
AC_INLINE V div(V a, V b) { return {_mm256_div_ps(a.v, b.v)}; }
AC_INLINE V sqrt(V x) { return {_mm256_sqrt_ps(x.v)}; }
AC_INLINE V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
AC_INLINE V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
AC_INLINE V round(V x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
AC_INLINE float sum(V x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
AC_INLINE float largest(V x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
// 2^n for whole n of -126..127
AC_INLINE V power_of_two(V n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
AC_INLINE V zero_where_less(V x, V limit, V value) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, limit.v, _CMP_NLT_UQ), value.v)};
}

}  // namespace
