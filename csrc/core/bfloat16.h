// bfloat16 as the upper half of a float. In an unnamed namespace: compiled with several instruction sets.
#pragma once
#include <cstdint>
#include <cstring>

#define AC_INLINE inline __attribute__((always_inline))

namespace {

// Rounded to nearest even; a NaN stays one.
AC_INLINE uint16_t narrow(float wide) {
  uint32_t bits;
  std::memcpy(&bits, &wide, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

AC_INLINE float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

AC_INLINE void put(float* to, float x) { *to = x; }
AC_INLINE void put(uint16_t* to, float x) { *to = narrow(x); }

}  // namespace
