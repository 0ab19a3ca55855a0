// Stands in for CUDA's header of tensor cores: a fragment of an operand says where it stands, each lane computes its
// share of the sums, in ascending order and without rounding between.
#pragma once
#include <cuda_runtime.h>

struct __nv_bfloat16 {
  uint16_t bits;
};

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  const T* from;
  unsigned pitch;
  float at(int row, int k) const {  // of matrix_a, or of matrix_b by columns
    const uint32_t bits = static_cast<uint32_t>(from[row * pitch + k].bits) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
};

template <int M, int N, int K, class T>
struct fragment<accumulator, M, N, K, T> {
  static constexpr int COUNT = M * N / 32;
  T x[COUNT];
};

inline int emulated_element(int count, int i) { return static_cast<int>(threadIdx.x) % 32 * count + i; }

template <int M, int N, int K, class T>
void fill_fragment(fragment<accumulator, M, N, K, T>& sums, T value) {
  for (T& x : sums.x) x = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& operand, const T* from, unsigned pitch) {
  if (reinterpret_cast<uintptr_t>(from) % 32 || pitch % 8) std::abort();  // as CUDA demands
  operand = {from, pitch};
}

template <int M, int N, int K, class T, class Sum>
void mma_sync(fragment<accumulator, M, N, K, Sum>& to, const fragment<matrix_a, M, N, K, T, row_major>& a,
              const fragment<matrix_b, M, N, K, T, col_major>& b, const fragment<accumulator, M, N, K, Sum>& sums) {
  for (int i = 0; i < sums.COUNT; ++i) {
    const int element = emulated_element(sums.COUNT, i);
    Sum sum = sums.x[i];
    for (int k = 0; k < K; ++k) sum = std::fma(a.at(element / N, k), b.at(element % N, k), sum);
    to.x[i] = sum;
  }
}

template <int M, int N, int K, class T>
void store_matrix_sync(T* to, const fragment<accumulator, M, N, K, T>& sums, unsigned pitch, layout_t) {
  for (int i = 0; i < sums.COUNT; ++i) {
    const int element = emulated_element(sums.COUNT, i);
    to[element / N * pitch + element % N] = sums.x[i];
  }
}

}  // namespace nvcuda::wmma
