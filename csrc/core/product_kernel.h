// A whole matrix product of one thread: which tiles in which order, and what becomes of their sums.
#pragma once
#if defined(__AMX_BF16__)
#include "amx_tiles.h"
#endif
#include "vector_tiles.h"

namespace {

// The sum of row m and panel p at sums[(p * num_rows + m) * PANEL], scaled and with its bias.
AC_INLINE V finished(const ac::Matrix& w, const Tile& tile, const float* sums, int p, int m, int lane) {
  V x = load(sums + (p * tile.num_rows + m) * PANEL + lane);
  const int64_t output = static_cast<int64_t>(tile.panel + p) * PANEL + lane;
  if (w.scales) x = mul(x, load(w.scales + output));
  return w.biases ? add(x, load(w.biases + output)) : x;
}

template <ac::Activation A>
AC_INLINE V activated(V x) {
  if constexpr (A == ac::Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (A == ac::Activation::gelu) return gelu(x);
  if constexpr (A == ac::Activation::relu) return relu(x);
  return silu(x);
}

template <ac::Activation A>
void write_activated(const ac::Product& job, const Tile& tile, const float* sums) {
  for (int p = 0; p < tile.num_panels; ++p) {
    for (int m = 0; m < tile.num_rows; ++m) {
      const int64_t at = (tile.row + m) * job.output.stride + (tile.panel + p) * PANEL;
      for (int lane = 0; lane < PANEL; lane += LANES) {
        const V y = activated<A>(finished(*job.weights, tile, sums, p, m, lane));
        if (job.output.narrow) {
          store(job.output.narrow + at + lane, y);
        } else {
          store(job.output.wide + at + lane, y);
        }
      }
    }
  }
}

template <ac::Activation A>
void write_gated(const ac::Product& job, const Tile& tile, const float* sums) {
  for (int p = 0; p < tile.num_panels; p += 2) {
    for (int m = 0; m < tile.num_rows; ++m) {
      const int64_t at = (tile.row + m) * job.output.stride + (tile.panel + p) / 2 * PANEL;
      for (int lane = 0; lane < PANEL; lane += LANES) {
        const V gate = finished(*job.weights, tile, sums, p, m, lane);
        const V up = finished(*job.weights, tile, sums, p + 1, m, lane);
        const V y = mul(activated<A>(gate), up);
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

void write_wide(const ac::Product& job, const Tile& tile, const float* sums) {
  const bool has_room = job.output.stride >= static_cast<int64_t>(job.weights->num_panels) * PANEL;
  for (int p = 0; p < tile.num_panels; ++p) {
    const int64_t column = static_cast<int64_t>(tile.panel + p) * PANEL;
    for (int m = 0; m < tile.num_rows; ++m) {
      float* to = job.output.wide + (tile.row + m) * job.output.stride + column;
      for (int lane = 0; lane < PANEL; lane += LANES) {
        V y = finished(*job.weights, tile, sums, p, m, lane);
        if (job.finish == ac::Finish::add) y = add(load(to + lane), y);
        store_first(to + lane, y, has_room ? LANES : job.columns - column - lane);
      }
    }
  }
}

template <ac::Activation A>
void write_inner(const ac::Product& job, const Tile& tile, const float* sums) {
  job.finish == ac::Finish::gate ? write_gated<A>(job, tile, sums) : write_activated<A>(job, tile, sums);
}

void write(const ac::Product& job, const Tile& tile, const float* sums) {
  if (job.finish == ac::Finish::store || job.finish == ac::Finish::add) return write_wide(job, tile, sums);
  switch (job.activation) {
    case ac::Activation::silu: return write_inner<ac::Activation::silu>(job, tile, sums);
    case ac::Activation::gelu_tanh: return write_inner<ac::Activation::gelu_tanh>(job, tile, sums);
    case ac::Activation::gelu: return write_inner<ac::Activation::gelu>(job, tile, sums);
    case ac::Activation::relu: return write_inner<ac::Activation::relu>(job, tile, sums);
  }
}

template <class Tiles>
void multiply_rows(const ac::Product& job, const Tiles& tiles, const Tile& tile) {
  alignas(64) float sums[Tiles::MAX_SUMS];
  tiles.sum(job, tile, sums);
  write(job, tile, sums);
}

// Blocks of rows, as few as keep a block's inputs in the second-level cache while panels pass by.
template <class Tiles>
int count_blocks(const ac::Product& job) {
  const int64_t row_bytes = static_cast<int64_t>(job.weights->inputs) * (job.input.narrow ? 2 : 4);
  const int64_t fitting = Tiles::BLOCK_BYTES / row_bytes, rows = fitting < 2 * Tiles::ROWS ? 2 * Tiles::ROWS : fitting;
  return static_cast<int>((job.num_rows + rows - 1) / rows);
}

constexpr int64_t AHEAD_BYTES = 4 << 10;  // between the weights that are read and those that are brought nearer

template <class Tiles>
void multiply_block(const ac::Product& job, Tiles& tiles, ac::Share panels, int begin, int end) {
  const int pair = job.finish == ac::Finish::gate ? 2 : 1, rows = end - begin;
  const int first = panels.begin(job.weights->num_panels / pair) * pair;
  const int last = panels.end(job.weights->num_panels / pair) * pair;
  const int num_tiles = (rows + Tiles::ROWS - 1) / Tiles::ROWS, most = (rows + num_tiles - 1) / num_tiles;
  const int at_once = Tiles::panels_at_once(most), group = at_once > pair ? at_once : pair;
  const int64_t panel_bytes = job.weights->panel_bytes, share = panel_bytes / num_tiles;
  // One tile reads ahead in its own panels. Of several, each brings its share of the panels after these, whose first
  // tile would else wait for memory.
  const int64_t distance = num_tiles == 1 ? AHEAD_BYTES : group * panel_bytes;
  tiles.prepare(most);
  for (int panel = first; panel < last; panel += group) {
    const int num_panels = last - panel < group ? last - panel : group;
    const char* ahead = job.weights->data + panel * panel_bytes + distance;
    for (int i = 0; i < num_tiles; ++i) {
      const int from = begin + rows * i / num_tiles, to = begin + rows * (i + 1) / num_tiles;
      multiply_rows(job, tiles, {from, to - from, panel, num_panels, ahead + i * share, share});
    }
  }
}

// Threads take whole panels, neighbouring ones, so that each streams its own stretch of the weights once a block.
template <class Tiles>
void multiply_with(Tiles tiles, const ac::Product& job, ac::Share share) {
  const int64_t rows = job.num_rows, blocks = count_blocks<Tiles>(job);
  for (int64_t i = 0; i < blocks; ++i) {
    multiply_block(job, tiles, share, static_cast<int>(rows * i / blocks), static_cast<int>(rows * (i + 1) / blocks));
  }
}

void multiply(const ac::Product& job, ac::Share share) {
#if defined(__AMX_BF16__)
  if (job.input.narrow) return multiply_with(MatrixTiles{}, job, share);
#endif
  multiply_with(VectorTiles{choose_tiles(job)}, job, share);
}

}  // namespace
