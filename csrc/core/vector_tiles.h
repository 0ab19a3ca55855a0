// Tiles of a matrix product in vector registers. Every output of every row is one chain of multiply-adds over ascending
// inputs, whatever the number of rows, so its bits do not depend on what else is computed.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace {

constexpr int PANEL = 2 * LANES;
constexpr int MAX_PANELS = 4;  // at once

// One tile of a product, from row `row` and panel `panel` on. While it is computed, `ahead_bytes` of weights at `ahead`
// (and as many of each further panel) come into the second-level cache.
struct Tile {
  int row, num_rows, panel, num_panels;
  const char* ahead;
  int64_t ahead_bytes;
};

// Brings the weights of neighbouring panels nearer, some with each step.
struct Ahead {
  const char* at;
  int64_t panel_bytes, step_bytes;

  Ahead(const Tile& tile, const ac::Matrix& w, int first, int64_t steps)
      : at(tile.ahead + first * w.panel_bytes), panel_bytes(w.panel_bytes),
        step_bytes((tile.ahead_bytes + steps - 1) / steps) {}
  AC_INLINE void next(int num_panels) {
    for (int p = 0; p < num_panels; ++p) {
      for (int64_t byte = 0; byte < step_bytes; byte += 64) prefetch(at + p * panel_bytes + byte);
    }
    at += step_bytes;
  }
};

// f32 or int8 weights, f32 inputs.
template <class T>
struct PlainWeights {
  using Input = float;
  static constexpr int INPUTS = 1;  // consumed by one step
  static constexpr int STEP_BYTES = PANEL * sizeof(T);
  template <int M>
  static AC_INLINE void step(const float* x, int64_t stride, const char* at, V (&sums)[M][2]) {
    const T* w = reinterpret_cast<const T*>(at);
    const V w0 = load(w), w1 = load(w + LANES);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const V factor = splat(x[m * stride]);
      sums[m][0] = fma(factor, w0, sums[m][0]);
      sums[m][1] = fma(factor, w1, sums[m][1]);
    }
  }
};

// bf16 weights widened exactly, f32 inputs.
struct NarrowWeights {
  using Input = float;
  static constexpr int INPUTS = 2;
  static constexpr int STEP_BYTES = PANEL * 4;
  template <int M>
  static AC_INLINE void step(const float* x, int64_t stride, const char* at, V (&sums)[M][2]) {
    const uint16_t* w = reinterpret_cast<const uint16_t*>(at);
    V first[2], second[2];
    load_pairs(w, first[0], second[0]);
    load_pairs(w + PANEL, first[1], second[1]);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const V a = splat(x[m * stride]), b = splat(x[m * stride + 1]);
      sums[m][0] = fma(b, second[0], fma(a, first[0], sums[m][0]));
      sums[m][1] = fma(b, second[1], fma(a, first[1], sums[m][1]));
    }
  }
};

#if defined(__AVX512BF16__)
// bf16 weights and inputs: the instruction multiplies pairs and adds into f32.
struct NarrowProducts {
  using Input = uint16_t;
  static constexpr int INPUTS = 2;
  static constexpr int STEP_BYTES = PANEL * 4;
  template <int M>
  static AC_INLINE void step(const uint16_t* x, int64_t stride, const char* at, V (&sums)[M][2]) {
    const __m512bh w0 = (__m512bh)_mm512_loadu_si512(at), w1 = (__m512bh)_mm512_loadu_si512(at + 64);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      int32_t pair;
      std::memcpy(&pair, x + m * stride, 4);
      const __m512bh factors = (__m512bh)_mm512_set1_epi32(pair);
      sums[m][0].v = _mm512_dpbf16_ps(sums[m][0].v, factors, w0);
      sums[m][1].v = _mm512_dpbf16_ps(sums[m][1].v, factors, w1);
    }
  }
};
#endif

// Sums of M rows by P neighbouring panels of a tile, to [P][M][PANEL].
template <class Weights, int M, int P>
void multiply_tile(const void* input, int64_t stride, const ac::Matrix& w, const Tile& tile, int first, float* to) {
  const auto* x = static_cast<const typename Weights::Input*>(input);
  const char* at = w.data + (tile.panel + first) * w.panel_bytes;
  const int64_t num_steps = w.inputs / Weights::INPUTS;
  Ahead ahead(tile, w, first, num_steps);
  V sums[P][M][2];
  for (auto& of_panel : sums) {
    for (auto& of_row : of_panel) of_row[0] = of_row[1] = splat(0.0f);
  }
  for (int64_t step = 0; step < num_steps; ++step, x += Weights::INPUTS, at += Weights::STEP_BYTES) {
    if (P <= 2) ahead.next(P);  // more streams come faster by the processor's own prefetching
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      Weights::template step<M>(x, stride, at + p * w.panel_bytes, sums[p]);
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int m = 0; m < M; ++m, to += PANEL) {
      store(to, sums[p][m][0]);
      store(to + LANES, sums[p][m][1]);
    }
  }
}

// From panel `first` of the tile on.
using TileFunction = void (*)(const void* input, int64_t stride, const ac::Matrix&, const Tile&, int first, float* to);

// Panels that so many rows take at once: as many as there are accumulators for. More chains hide the latency of the
// multiply-add, and several streams come faster from memory than one.
constexpr int panels_at_once(int rows) {
  return 4 * rows <= TILE_ROWS ? 4 : 2 * rows <= TILE_ROWS ? 2 : 1;
}

// By number of rows: [0] takes as many panels as so many rows take at once, [1] takes one.
struct TileTable {
  TileFunction tiles[TILE_ROWS + 1][2];
};

template <class Weights, int M>
constexpr void list_tiles(TileTable& table) {
  table.tiles[M][0] = multiply_tile<Weights, M, panels_at_once(M)>;
  table.tiles[M][1] = multiply_tile<Weights, M, 1>;
  if constexpr (M > 1) list_tiles<Weights, M - 1>(table);
}

template <class Weights>
constexpr TileTable make_tiles() {
  TileTable table{};
  list_tiles<Weights, TILE_ROWS>(table);
  return table;
}

template <class Weights>
constexpr TileTable TILES = make_tiles<Weights>();

const TileTable& choose_tiles(const ac::Product& job) {
  switch (job.weights->type) {
    case ac::WeightType::f32: return TILES<PlainWeights<float>>;
    case ac::WeightType::int8: return TILES<PlainWeights<int8_t>>;
    case ac::WeightType::bf16: break;
  }
#if defined(__AVX512BF16__)
  if (job.input.narrow) return TILES<NarrowProducts>;
#endif
  return TILES<NarrowWeights>;
}

// Tiles of the vector registers.
struct VectorTiles {
  static constexpr int ROWS = TILE_ROWS;
  static constexpr int MAX_SUMS = (2 * TILE_ROWS + MAX_PANELS) * PANEL;
  static constexpr int64_t BLOCK_BYTES = 384 << 10;

  const TileTable& table;

  static constexpr int panels_at_once(int rows) { return ::panels_at_once(rows); }
  void prepare(int) {}
  // Sums of the tile's panels, to sums [panels][rows][PANEL].
  void sum(const ac::Product& job, const Tile& tile, float* sums) const {
    const int at_once = panels_at_once(tile.num_rows);
    const ac::Rows& in = job.input;
    const void* input = in.narrow ? static_cast<const void*>(in.narrow + tile.row * in.stride)
                                  : static_cast<const void*>(in.wide + tile.row * in.stride);
    for (int p = 0; p < tile.num_panels;) {
      const bool whole = tile.num_panels - p >= at_once;
      table.tiles[tile.num_rows][whole ? 0 : 1](input, in.stride, *job.weights, tile, p,
                                                 sums + p * tile.num_rows * PANEL);
      p += whole ? at_once : 1;
    }
  }
};

}  // namespace
