// A whole matrix product of one thread: which tiles in which order, and what becomes of their sums.
#pragma once
#include "matrix_kernel.h"

namespace {

constexpr int MAX_SUMS = (2 * TILE_ROWS + MAX_PANELS) * PANEL;
constexpr int64_t BLOCK_BYTES = 384 << 10;  // of inputs, which stay in the second-level cache while panels pass by

// Sums of one tile: row m of panel p at sums[(p * num_rows + m) * PANEL], first of the call's rows `row`.
struct TileSums {
  const float* sums;
  int row, num_rows, panel, num_panels;
};

AC_INLINE V finished(const ac::Matrix& w, const TileSums& tile, int p, int m, int lane) {
  V x = load(tile.sums + (p * tile.num_rows + m) * PANEL + lane);
  const int64_t output = static_cast<int64_t>(tile.panel + p) * PANEL + lane;
  if (w.scales) x = mul(x, load(w.scales + output));
  return w.biases ? add(x, load(w.biases + output)) : x;
}

void write_gated(const ac::Product& job, const TileSums& tile) {
  for (int p = 0; p < tile.num_panels; p += 2) {
    for (int m = 0; m < tile.num_rows; ++m) {
      const int64_t at = (tile.row + m) * job.output.stride + (tile.panel + p) / 2 * PANEL;
      for (int lane = 0; lane < PANEL; lane += LANES) {
        const V gate = finished(*job.weights, tile, p, m, lane), up = finished(*job.weights, tile, p + 1, m, lane);
        const V y = mul(silu(gate), up);
        if (job.output.narrow) {
          store(job.output.narrow + at + lane, y);
        } else {
          store(job.output.wide + at + lane, y);
        }
      }
    }
  }
}

// Rows of exactly `columns` numbers have no room for the last panel's unused outputs.
AC_INLINE void store_first(float* to, V x, int64_t count) {
  if (count >= LANES) return store(to, x);
  float lanes[LANES];
  store(lanes, x);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

void write_wide(const ac::Product& job, const TileSums& tile) {
  const bool has_room = job.output.stride >= static_cast<int64_t>(job.weights->num_panels) * PANEL;
  for (int p = 0; p < tile.num_panels; ++p) {
    const int64_t column = static_cast<int64_t>(tile.panel + p) * PANEL;
    for (int m = 0; m < tile.num_rows; ++m) {
      float* to = job.output.wide + (tile.row + m) * job.output.stride + column;
      for (int lane = 0; lane < PANEL; lane += LANES) {
        V y = finished(*job.weights, tile, p, m, lane);
        if (job.finish == ac::Finish::add) y = add(load(to + lane), y);
        store_first(to + lane, y, has_room ? LANES : job.columns - column - lane);
      }
    }
  }
}

void multiply_rows(const ac::Product& job, const TileTable& table, TileSums tile) {
  alignas(64) float sums[MAX_SUMS];
  const int at_once = panels_at_once(tile.num_rows);
  const ac::Rows& in = job.input;
  const void* input = in.narrow ? static_cast<const void*>(in.narrow + tile.row * in.stride)
                                : static_cast<const void*>(in.wide + tile.row * in.stride);
  for (int p = 0; p < tile.num_panels;) {
    const bool whole = tile.num_panels - p >= at_once;
    table.tiles[tile.num_rows][whole ? 0 : 1](input, in.stride, *job.weights, tile.panel + p,
                                               sums + p * tile.num_rows * PANEL);
    p += whole ? at_once : 1;
  }
  tile.sums = sums;
  job.finish == ac::Finish::gate ? write_gated(job, tile) : write_wide(job, tile);
}

// Blocks of rows, as few as keep a block's inputs in the cache.
int count_blocks(const ac::Product& job) {
  const int64_t row_bytes = static_cast<int64_t>(job.weights->inputs) * (job.input.narrow ? 2 : 4);
  const int64_t fitting = BLOCK_BYTES / row_bytes, rows = fitting < 2 * TILE_ROWS ? 2 * TILE_ROWS : fitting;
  return static_cast<int>((job.num_rows + rows - 1) / rows);
}

void multiply_block(const ac::Product& job, const TileTable& table, ac::Share panels, int begin, int end) {
  const int pair = job.finish == ac::Finish::gate ? 2 : 1, rows = end - begin;
  const int first = panels.begin(job.weights->num_panels / pair) * pair;
  const int last = panels.end(job.weights->num_panels / pair) * pair;
  const int num_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  const int at_once = panels_at_once((rows + num_tiles - 1) / num_tiles), group = at_once > pair ? at_once : pair;
  for (int panel = first; panel < last; panel += group) {
    const int num_panels = last - panel < group ? last - panel : group;
    for (int i = 0; i < num_tiles; ++i) {
      const int from = begin + rows * i / num_tiles, to = begin + rows * (i + 1) / num_tiles;
      multiply_rows(job, table, {nullptr, from, to - from, panel, num_panels});
    }
  }
}

// Threads take whole panels, neighbouring ones, so that each streams its own stretch of the weights once a block.
void multiply(const ac::Product& job, ac::Share share) {
  const TileTable& table = choose_tiles(job);
  const int64_t rows = job.num_rows, blocks = count_blocks(job);
  for (int64_t i = 0; i < blocks; ++i) {
    multiply_block(job, table, share, static_cast<int>(rows * i / blocks), static_cast<int>(rows * (i + 1) / blocks));
  }
}

}  // namespace
