// Where keys and values stand, and which of them a query sees. Plain integer functions for the device and the host.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace acu {

constexpr int TILE = 32;             // positions that one warp scores at once, one in each lane
constexpr int TILES_PER_CHUNK = 8;   // warps of a block that splits a context
constexpr int CHUNK = TILE * TILES_PER_CHUNK;
constexpr int BLOCK_MULTIPLE = 16;   // block_tokens is a multiple, so a half tile lies in one block
constexpr int PACKET_BYTES = 16;

__host__ __device__ inline int smaller(int a, int b) { return a < b ? a : b; }
__host__ __device__ inline int larger(int a, int b) { return a > b ? a : b; }
__host__ __device__ inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One block of the pool holds, for each key head, keys [head_dim / packet][block_tokens][packet] (a warp whose lanes
// are neighbouring tokens loads packets that stand together), then, for each key head, values [block_tokens][head_dim].
struct BlockShape {
  int block_tokens, kv_heads, head_dim;
  int packet;  // numbers in PACKET_BYTES

  __host__ __device__ int64_t numbers() const { return 2 * keys_of_all(); }
  __host__ __device__ int64_t keys_of_all() const { return static_cast<int64_t>(kv_heads) * block_tokens * head_dim; }
  // Number d = 0 of a token's key; number d is at + (d / packet) * block_tokens * packet + d % packet.
  __host__ __device__ int64_t key_start(int head, int token) const {
    return static_cast<int64_t>(head) * block_tokens * head_dim + token * packet;
  }
  __host__ __device__ int64_t key(int head, int token, int d) const {
    return key_start(head, token) + static_cast<int64_t>(d / packet) * block_tokens * packet + d % packet;
  }
  __host__ __device__ int64_t value(int head, int token, int d) const {
    return keys_of_all() + (static_cast<int64_t>(head) * block_tokens + token) * head_dim + d;
  }
};

// Positions first .. last, both included.
struct Range {
  int first, last;

  __host__ __device__ bool holds(int position) const { return position >= first && position <= last; }
  __host__ __device__ bool meets(Range other) const { return first <= other.last && other.first <= last; }
  __host__ __device__ bool covers(Range other) const { return first <= other.first && other.last <= last; }
};

// What the query at `position` sees; window 0: everything before it.
__host__ __device__ inline Range seen_from(int position, int window) {
  return {window > 0 && position >= window ? position - window + 1 : 0, position};
}

__host__ __device__ inline Range tile_range(int tile) { return {tile * TILE, tile * TILE + TILE - 1}; }
__host__ __device__ inline Range chunk_range(int chunk) { return {chunk * CHUNK, chunk * CHUNK + CHUNK - 1}; }

// How the query heads of a key head, and neighbouring rows, are put together into at most `most` query vectors.
struct Grouping {
  int heads_each, rows_each, head_groups;
};

__host__ __device__ inline Grouping group_queries(int heads_per_key, int most) {
  const int heads_each = smaller(heads_per_key, most);
  return {heads_each, larger(1, most / heads_per_key), static_cast<int>(ceil_divide(heads_per_key, heads_each))};
}

// Where the split attention keeps its partial results: [row][head][chunk][head_dim outputs, largest score, sum].
__host__ __device__ inline int64_t partial_start(int64_t row, int heads, int head, int chunks, int chunk,
                                                 int head_dim) {
  return ((row * heads + head) * chunks + chunk) * (head_dim + 2);
}

}  // namespace acu
