// Small matrix products for attention: operands lie in the first- and second-level cache. Every number of the result is
// a chain of fused multiply-adds over ascending depth, whatever the tile it is computed in.
#pragma once
#include "vec.h"

namespace {

constexpr int PANEL_VECTORS = 2;
constexpr int PANEL = PANEL_VECTORS * LANES;  // columns computed together

// c [rows, columns] = or += a [rows, depth] times b [depth, columns]; rows of each stand `stride` apart. Where `a` is
// transposed its memory is [depth, rows].
struct TileProduct {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int depth;
};

template <int ROWS, int VECTORS, bool TRANSPOSED, bool ADD>
AC_INLINE void multiply_tile(const TileProduct& job, int row, int column) {
  const int64_t down = TRANSPOSED ? 1 : job.a_stride, along = TRANSPOSED ? job.a_stride : 1;
  const float *a = job.a + row * down, *b = job.b + column;
  float* c = job.c + row * job.c_stride + column;
  V sums[ROWS][VECTORS];
  for (int m = 0; m < ROWS; ++m) {
    for (int n = 0; n < VECTORS; ++n) sums[m][n] = ADD ? load(c + m * job.c_stride + n * LANES) : splat(0.0f);
  }
  for (int k = 0; k < job.depth; ++k, a += along, b += job.b_stride) {
    V right[VECTORS];
#pragma GCC unroll 2
    for (int n = 0; n < VECTORS; ++n) right[n] = load(b + n * LANES);
#pragma GCC unroll 12
    for (int m = 0; m < ROWS; ++m) {
      const V left = splat(a[m * down]);
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n) sums[m][n] = fma(left, right[n], sums[m][n]);
    }
  }
  for (int m = 0; m < ROWS; ++m) {
    for (int n = 0; n < VECTORS; ++n) store(c + m * job.c_stride + n * LANES, sums[m][n]);
  }
}

template <int VECTORS, bool TRANSPOSED, bool ADD>
void multiply_rows(const TileProduct& job, int rows, int column) {
  int row = 0;
  for (; row + TILE_ROWS <= rows; row += TILE_ROWS) {
    multiply_tile<TILE_ROWS, VECTORS, TRANSPOSED, ADD>(job, row, column);
  }
  for (; row + 4 <= rows; row += 4) multiply_tile<4, VECTORS, TRANSPOSED, ADD>(job, row, column);
  for (; row < rows; ++row) multiply_tile<1, VECTORS, TRANSPOSED, ADD>(job, row, column);
}

// columns: a multiple of LANES.
template <bool TRANSPOSED, bool ADD>
void multiply(const TileProduct& job, int rows, int columns) {
  int column = 0;
  for (; column + PANEL <= columns; column += PANEL) multiply_rows<PANEL_VECTORS, TRANSPOSED, ADD>(job, rows, column);
  for (; column < columns; column += LANES) multiply_rows<1, TRANSPOSED, ADD>(job, rows, column);
}

}  // namespace
