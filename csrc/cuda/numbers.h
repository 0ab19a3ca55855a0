// Numbers as the kernels hold them: bfloat16, and packets that one instruction loads.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace acu {

struct Bf16 {
  uint16_t bits;
};

// N numbers that stand together at a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Packet {
  T at[N];
};

__host__ __device__ inline float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

__host__ __device__ inline uint32_t as_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

__host__ __device__ inline bool is_finite(float x) { return (as_bits(x) & 0x7f800000u) != 0x7f800000u; }

__host__ __device__ inline float widen(float x) { return x; }
__host__ __device__ inline float widen(Bf16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }

__host__ __device__ inline void put(float* to, float x) { *to = x; }

// Rounded to nearest even; a NaN stays one.
__host__ __device__ inline void put(Bf16* to, float x) {
  const uint32_t bits = as_bits(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = is_nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  to->bits = static_cast<uint16_t>(rounded >> 16);
}

template <int N, class T>
__device__ inline Packet<T, N> load_packet(const T* from) {
  return *reinterpret_cast<const Packet<T, N>*>(from);
}

// Inputs of the matrices: f32 or bf16; the other pointer is null.
struct Activations {
  float* wide;
  Bf16* narrow;

  __device__ void write(int64_t i, float x) const {
    if (narrow) {
      put(narrow + i, x);
    } else {
      wide[i] = x;
    }
  }
};

}  // namespace acu
