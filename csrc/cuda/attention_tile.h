// Attention of a few query vectors over one tile of 32 positions, by one warp, and how results of tiles are put
// together. Both attention kernels are made of these, so they compute the same bits:
//   tile:   scores are chains over the head's numbers, one lane a position; outputs are chains over ascending positions
//   chunk:  its tiles, merged in ascending order, beginning with nothing
//   row:    its chunks, merged in ascending order, beginning with nothing
// Tiles and chunks are aligned to position 0 and a query takes part only in those that it sees something of, so
// nothing depends on which queries or rows work together.
#pragma once
#include "attention.h"
#include "warp.h"

namespace acu {

// Softmax of what has been seen so far: largest score, and sum of e^(score - largest).
struct Softmax {
  float top = -INFINITY, sum = 0.0f;
};

// Factors of the old and the new outputs when `added` is merged into `state`.
struct Blend {
  float old_factor, new_factor;
  __device__ float mix(float old_output, float new_output) const {
    return __fmaf_rn(old_output, old_factor, new_output * new_factor);
  }
};

__device__ inline Blend merge(Softmax& state, const Softmax& added) {
  const float top = fmaxf(state.top, added.top);
  const Blend blend{expf(state.top - top), expf(added.top - top)};
  state = {top, blend.mix(state.sum, added.sum)};
  return blend;
}

// The pool as one query head group sees it.
template <class T>
struct KeyValues {
  const T* pool;
  const int32_t* blocks;  // of the slot
  BlockShape shape;
  int kv_head;

  __device__ const T* block_at(int position) const {
    return pool + blocks[position / shape.block_tokens] * shape.numbers();
  }
  __device__ const T* key(int position) const {
    return block_at(position) + shape.key_start(kv_head, position % shape.block_tokens);
  }
  __device__ const T* value(int position) const {
    return block_at(position) + shape.value(kv_head, position % shape.block_tokens, 0);
  }
};

template <class T>
__device__ KeyValues<T> keys_of(const Attention& job, int slot, int kv_head) {
  return {static_cast<const T*>(job.pool), job.block_tables + static_cast<int64_t>(slot) * job.max_blocks, job.shape,
          kv_head};
}

// What a warp needs in shared memory: M query vectors, already scaled, and the weights of its tile.
template <int D, int M>
struct alignas(32) Queries {
  float at[M][D];
};

template <int M>
struct alignas(16) Weights {
  float at[M][TILE];
};

// Outputs of a lane: numbers lane * (D / 32) .. of each query vector.
template <int D, int M>
struct Outputs {
  static constexpr int OWNED = D / WARP;
  float at[M][OWNED];
};

template <class T, int D, int M>
__device__ inline void score_position(const KeyValues<T>& source, int position, const Queries<D, M>& queries,
                                      float (&scores)[M]) {
  constexpr int PACKET = PACKET_BYTES / sizeof(T);
  const T* key = source.key(position);
#pragma unroll 8
  for (int c = 0; c < D / PACKET; ++c) {
    const Packet<T, PACKET> numbers = load_packet<PACKET>(key + c * source.shape.block_tokens * PACKET);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const Packet<float, PACKET> query = load_packet<PACKET>(queries.at[m] + c * PACKET);
#pragma unroll
      for (int x = 0; x < PACKET; ++x) scores[m] = __fmaf_rn(query.at[x], widen(numbers.at[x]), scores[m]);
    }
  }
}

template <int M>
__device__ inline bool any_meets(const Range (&seen)[M], Range range) {
  bool meets = false;
#pragma unroll
  for (int m = 0; m < M; ++m) meets = meets || seen[m].meets(range);
  return meets;
}

// Add weight * value for the positions of half a tile, which one block holds. WHOLE: every query sees all of them.
template <bool WHOLE, class T, int D, int M>
__device__ inline void add_values(const KeyValues<T>& source, Range half, const Range (&seen)[M],
                                  const Weights<M>& weights, Outputs<D, M>& outputs) {
  constexpr int OWNED = Outputs<D, M>::OWNED;
  const T* values = source.value(half.first) + threadIdx.x % WARP * OWNED;
#pragma unroll
  for (int i = 0; i < BLOCK_MULTIPLE; ++i) {
    const int position = half.first + i;
    if (!WHOLE && !any_meets(seen, {position, position})) continue;
    const Packet<T, OWNED> numbers = load_packet<OWNED>(values + i * D);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if (!WHOLE && !seen[m].holds(position)) continue;
      const float weight = weights.at[m][position % TILE];
#pragma unroll
      for (int o = 0; o < OWNED; ++o) {
        outputs.at[m][o] = __fmaf_rn(weight, widen(numbers.at[o]), outputs.at[m][o]);
      }
    }
  }
}

// softmax[m] and outputs of query m over what it sees of the tile; of no use for a query that sees nothing of it. All
// lanes call. Nothing is read at positions that no query sees: their blocks need not exist.
template <class T, int D, int M>
__device__ inline void attend_tile(const KeyValues<T>& source, int tile, const Range (&seen)[M],
                                   const Queries<D, M>& queries, Weights<M>& weights, Softmax (&softmax)[M],
                                   Outputs<D, M>& outputs) {
  const Range here = tile_range(tile);
  const int lane = threadIdx.x % WARP, position = here.first + lane;
  float scores[M] = {};
  if (any_meets(seen, {position, position})) score_position<T, D, M>(source, position, queries, scores);
  bool is_whole = true;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const bool is_seen = seen[m].holds(position);
    const float score = is_seen ? scores[m] : -INFINITY;
    softmax[m].top = over_lanes(score, Largest());
    const float weight = is_seen ? expf(score - softmax[m].top) : 0.0f;
    softmax[m].sum = over_lanes(weight, Sum());
    weights.at[m][lane] = weight;
    is_whole = is_whole && seen[m].covers(here);
  }
  __syncwarp();
  outputs = {};
#pragma unroll
  for (int begin = here.first; begin < here.first + TILE; begin += BLOCK_MULTIPLE) {
    const Range half{begin, begin + BLOCK_MULTIPLE - 1};
    if (is_whole) {
      add_values<true>(source, half, seen, weights, outputs);
    } else if (any_meets(seen, half)) {
      add_values<false>(source, half, seen, weights, outputs);
    }
  }
  __syncwarp();  // weights and queries may be overwritten now
}

}  // namespace acu
