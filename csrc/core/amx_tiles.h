// Tiles of a product of bf16 by bf16 in the tile registers of a processor's matrix unit (Intel AMX). Every output of
// every row is one chain over ascending stretches of 32 inputs, whatever the number of rows or their place in a tile.
#pragma once
#include "vector_tiles.h"

namespace {

constexpr int TILE_SIDE = 16;    // rows of a register; outputs of an accumulator
constexpr int TILE_INPUTS = 32;  // that one instruction consumes
constexpr int ROW_BYTES = 64;    // of a register
constexpr int PAIR_BYTES = PANEL * 4;  // a panel's weights of two inputs
constexpr int STEP_BYTES = TILE_INPUTS / 2 * PAIR_BYTES;

// Tile registers: 0 to 3 are accumulators, 4 and 5 hold inputs, 6 and 7 weights.
struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// The compiler's tile intrinsics do not say that they read and write memory.
AC_INLINE void fence() { asm volatile("" ::: "memory"); }

// What four accumulators make: all outputs of two groups of rows, or of two panels, or half as much.
enum class TileShape { two_groups, two_panels, single };

// Bytes that one step reads. The second place is that of the second group of rows or the second panel.
struct TileSources {
  const char* rows[2];
  int64_t stride;  // between rows
  const char* weights[2];
};

template <TileShape S>
AC_INLINE void step(const TileSources& at) {
  _tile_loadd(4, at.rows[0], at.stride);
  _tile_loadd(6, at.weights[0], PAIR_BYTES);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, at.weights[0] + ROW_BYTES, PAIR_BYTES);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (S == TileShape::two_groups) {
    _tile_loadd(5, at.rows[1], at.stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  } else if constexpr (S == TileShape::two_panels) {
    _tile_loadd(6, at.weights[1], PAIR_BYTES);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, at.weights[1] + ROW_BYTES, PAIR_BYTES);
    _tile_dpbf16ps(3, 4, 7);
  }
}

// The last inputs where they are no whole stretch, and their weights, filled up with zeros.
struct LastStretch {
  alignas(64) char rows[2][TILE_SIDE * ROW_BYTES];
  alignas(64) char weights[2][STEP_BYTES];

  TileSources fill(const TileSources& from, int height, int inputs) {
    std::memset(this, 0, sizeof *this);
    for (int i = 0; i < 2; ++i) {
      for (int m = 0; m < height; ++m) std::memcpy(rows[i] + m * ROW_BYTES, from.rows[i] + m * from.stride, inputs * 2);
      std::memcpy(weights[i], from.weights[i], inputs / 2 * PAIR_BYTES);
    }
    return {{rows[0], rows[1]}, ROW_BYTES, {weights[0], weights[1]}};
  }
};

// Sums over all inputs, to [height][PANEL] at `to` and, of the second place, at `more`.
template <TileShape S>
void sum_products(TileSources at, Ahead ahead, int inputs, int height, float* to, float* more) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (; inputs >= TILE_INPUTS; inputs -= TILE_INPUTS) {
    ahead.next(S == TileShape::two_panels ? 2 : 1);
    step<S>(at);
    for (int i = 0; i < 2; ++i) {
      at.rows[i] += ROW_BYTES;
      at.weights[i] += STEP_BYTES;
    }
  }
  if (inputs > 0) {
    LastStretch last;
    const TileSources filled = last.fill(at, height, inputs);
    fence();
    step<S>(filled);
  }
  _tile_stored(0, to, PANEL * 4);
  _tile_stored(1, to + TILE_SIDE, PANEL * 4);
  if constexpr (S != TileShape::single) {
    _tile_stored(2, more, PANEL * 4);
    _tile_stored(3, more + TILE_SIDE, PANEL * 4);
  }
  fence();
}

struct MatrixTiles {
  static constexpr int ROWS = 2 * TILE_SIDE;
  static constexpr int MAX_SUMS = 2 * ROWS * PANEL;
  static constexpr int64_t BLOCK_BYTES = 1 << 20;

  // Rows that are few enough for one group take two panels at once instead.
  static constexpr int panels_at_once(int rows) { return rows <= TILE_SIDE ? 2 : 1; }

  MatrixTiles() = default;
  MatrixTiles(const MatrixTiles&) = delete;
  ~MatrixTiles() { _tile_release(); }

  // For tiles of `most` rows or, above TILE_SIDE, one less; then two groups may have a row in common.
  void prepare(int most) {
    groups_ = most > TILE_SIDE ? 2 : 1;
    height_ = (most + groups_ - 1) / groups_;
    TileShapes shapes = {};
    shapes.palette = 1;
    for (int i = 0; i < 8; ++i) {
      shapes.row_bytes[i] = ROW_BYTES;
      shapes.rows[i] = static_cast<uint8_t>(i < 6 ? height_ : TILE_SIDE);
    }
    fence();
    _tile_loadconfig(&shapes);
  }

  // Sums of the tile's panels, to sums [panels][rows][PANEL].
  void sum(const ac::Product& job, const Tile& tile, float* sums) const {
    const ac::Matrix& w = *job.weights;
    const int64_t stride = job.input.stride * 2, panel_floats = static_cast<int64_t>(tile.num_rows) * PANEL;
    const int second = tile.num_rows - height_;  // first row of the second group
    const int steps = w.inputs < TILE_INPUTS ? 1 : w.inputs / TILE_INPUTS;
    const char* rows = reinterpret_cast<const char*>(job.input.narrow) + tile.row * stride;
    for (int p = 0; p < tile.num_panels; ++p) {
      const char* weights = w.data + (tile.panel + p) * w.panel_bytes;
      float* to = sums + p * panel_floats;
      const Ahead ahead(tile, w, p, steps);
      fence();
      if (groups_ == 2) {
        const TileSources at{{rows, rows + second * stride}, stride, {weights, weights}};
        sum_products<TileShape::two_groups>(at, ahead, w.inputs, height_, to, to + second * PANEL);
      } else if (p + 1 < tile.num_panels) {
        const TileSources at{{rows, rows}, stride, {weights, weights + w.panel_bytes}};
        sum_products<TileShape::two_panels>(at, ahead, w.inputs, height_, to, to + panel_floats);
        ++p;
      } else {
        sum_products<TileShape::single>({{rows, rows}, stride, {weights, weights}}, ahead, w.inputs, height_, to, to);
      }
    }
  }

 private:
  int groups_ = 1, height_ = 0;
};

}  // namespace
