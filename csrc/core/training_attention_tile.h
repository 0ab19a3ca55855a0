// Parts of training_attention_kernel.h: which keys a tile of queries sees, padded copies, and products between them.
#pragma once
#include <cmath>
#include <cstring>

#include "row_kernel.h"
#include "training_kernels.h"
#include "training_tile_kernel.h"

namespace {

// One tile's queries, and the keys that any of them sees.
struct TileRange {
  int first_query, num_queries;
  int first_key, end_key;  // multiples of PANEL
};

AC_INLINE int padded_width(const ac::SharedHead& job) {
  return static_cast<int>(ac::round_up(job.head_dim, ac::SCRATCH_UNIT));
}
AC_INLINE int padded_keys(const ac::SharedHead& job) {
  return static_cast<int>(ac::round_up(job.capacity, ac::KEY_UNIT));
}
// An odd number of cache lines, so that neighbouring rows never compete for the same lines of the first-level cache.
AC_INLINE int64_t score_stride(const ac::SharedHead& job) { return padded_keys(job) + ac::SCRATCH_UNIT; }

// The first key that the query at `position` sees.
AC_INLINE int first_seen(const ac::SharedHead& job, int position) {
  return job.window > 0 && position >= job.window ? position - job.window + 1 : 0;
}

AC_INLINE TileRange tile_at(const ac::SharedHead& job, int query) {
  const int left = job.end_query - query, count = left < ac::QUERY_TILE ? left : ac::QUERY_TILE;
  return {query, count, first_seen(job, query) / PANEL * PANEL, (query + count + PANEL - 1) / PANEL * PANEL};
}

// A token's head is a short stretch far from its neighbour's, which no processor foresees: ask for it FORESIGHT tokens
// ahead. Beyond the last token this asks for memory that is never read.
constexpr int FORESIGHT = 8;
AC_INLINE void prefetch_head(const ac::SharedHead& job, const float* head, int64_t stride) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(head) + FORESIGHT * stride * sizeof(float);
  const char* ahead = reinterpret_cast<const char*>(at);
  for (int d = 0; d < job.head_dim; d += ac::SCRATCH_UNIT) __builtin_prefetch(ahead + d * sizeof(float));
}

// to [n] = from * factor
AC_INLINE void copy_scaled(const float* from, float factor, int n, float* to) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, mul(load(from + i), splat(factor)));
  for (; i < n; ++i) to[i] = from[i] * factor;
}

// (a, b) -> (a c - b s, b c + a s) for the halves of a head times factor, c being the cosine and s sign times the
// sine; sign -1 transposes the rotation.
AC_INLINE void copy_turned(const float* from, const float* cosines, const float* sines, int half, float factor,
                           float sign, float* to) {
  const V scale = splat(factor), signs = splat(sign);
  int i = 0;
  for (; i + LANES <= half; i += LANES) {
    const V a = mul(load(from + i), scale), b = mul(load(from + half + i), scale);
    const V c = load(cosines + i), s = mul(load(sines + i), signs);
    store(to + i, sub(mul(a, c), mul(b, s)));
    store(to + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = from[i] * factor, b = from[half + i] * factor, c = cosines[i], s = sines[i] * sign;
    to[i] = a * c - b * s;
    to[half + i] = b * c + a * s;
  }
}

// to [head_dim] = the head at `position` rotated (sign 1) or rotated back (sign -1), times factor.
AC_INLINE void copy_head(const ac::SharedHead& job, const float* from, int position, float factor, float sign,
                         float* to) {
  const int half = job.head_dim / 2;
  const int64_t row = static_cast<int64_t>(position) * half;
  if (job.cosines) {
    copy_turned(from, job.cosines + row, job.sines + row, half, factor, sign, to);
  } else {
    copy_scaled(from, factor, job.head_dim, to);
  }
}

// to [width] = the head at `position` rotated and times factor, then zeros.
AC_INLINE void copy_rotated(const ac::SharedHead& job, const float* head, int position, float factor, float* to) {
  copy_head(job, head, position, factor, 1.0f, to);
  for (int d = job.head_dim; d < padded_width(job); ++d) to[d] = 0.0f;
}

// to [head_dim] = the transposed rotation of the gradient at `position`, times factor.
AC_INLINE void copy_rotated_back(const ac::SharedHead& job, const float* grad, int position, float factor, float* to) {
  copy_head(job, grad, position, factor, -1.0f, to);
}

// rows [count, width] = the heads at `from`, a token's `stride` apart.
AC_INLINE void copy_rows(const ac::SharedHead& job, const float* from, int64_t stride, int count, float* rows) {
  const int dim = job.head_dim, width = padded_width(job);
  for (int i = 0; i < count; ++i, from += stride, rows += width) {
    prefetch_head(job, from, stride);
    std::memcpy(rows, from, dim * sizeof(float));
    std::memset(rows + dim, 0, (width - dim) * sizeof(float));
  }
}

// panels [panel][head_dim][PANEL] = rows [length, width] transposed, zeros beyond them. Shared ones are there already.
void transpose_rows(const ac::SharedHead& job, const float* rows, float* panels) {
  const int dim = job.head_dim, width = padded_width(job);
  for (int first = job.shared / PANEL * PANEL; first < job.length; first += PANEL) {
    const int begin = first < job.shared ? job.shared - first : 0;
    const int end = job.length - first < PANEL ? job.length - first : PANEL;
    const float* from = rows + static_cast<int64_t>(first) * width;
    float* panel = panels + static_cast<int64_t>(first) * dim;
    for (int d = 0; d < dim; ++d) {
      for (int i = begin; i < end; ++i) panel[d * PANEL + i] = from[i * width + d];
      for (int i = end; i < PANEL; ++i) panel[d * PANEL + i] = 0.0f;
    }
  }
}

// scores [query][key - first_key] = products of tile rows [query, width] with the keys of `panels`. Panels that a query
// cannot see are left out where that saves whole rows of a product.
void score(const ac::SharedHead& job, const TileRange& tile, const float* rows, const float* panels, float* scores) {
  const int dim = job.head_dim, width = padded_width(job);
  const int64_t stride = score_stride(job);
  for (int key = tile.first_key; key < tile.end_key; key += PANEL) {
    const int blind = key > tile.first_query ? (key - tile.first_query) / TILE_ROWS * TILE_ROWS : 0;
    const float* panel = panels + static_cast<int64_t>(key) * dim;
    float* to = scores + blind * stride + key - tile.first_key;
    const TileProduct job_of_panel{rows + blind * width, width, panel, PANEL, to, stride, dim};
    multiply<false, false>(job_of_panel, tile.num_queries - blind, PANEL);
  }
}

// sums [query, width] = weights [query][key - first_key] times rows [key, width], over the keys that are seen.
void mix(const ac::SharedHead& job, const TileRange& tile, const float* weights, const float* rows, float* sums) {
  const int width = padded_width(job);
  const int64_t stride = score_stride(job);
  for (int query = 0; query < tile.num_queries; query += TILE_ROWS) {
    const int count = tile.num_queries - query < TILE_ROWS ? tile.num_queries - query : TILE_ROWS;
    const int depth = tile.first_query + query + count - tile.first_key;
    const float* keys = rows + static_cast<int64_t>(tile.first_key) * width;
    float* to = sums + query * width;
    multiply<false, false>({weights + query * stride, stride, keys, width, to, width, depth}, count, width);
  }
}

// sums [key, width] += transposed weights [query][key - first_key] times rows [query, width] of the tile.
void add_transposed(const ac::SharedHead& job, const TileRange& tile, const float* weights, const float* rows,
                    float* sums) {
  const int width = padded_width(job), end = tile.first_query + tile.num_queries;
  const int64_t stride = score_stride(job);
  for (int key = tile.first_key; key < end; key += TILE_ROWS) {
    const int count = end - key < TILE_ROWS ? end - key : TILE_ROWS;
    const int before = key > tile.first_query ? key - tile.first_query : 0;  // queries that see none of these keys
    const int depth = tile.num_queries - before;
    const float *from = weights + before * stride + key - tile.first_key, *queries = rows + before * width;
    float* to = sums + static_cast<int64_t>(key) * width;
    multiply<true, true>({from, stride, queries, width, to, width, depth}, count, width);
  }
}

// The lanes of a row of scores that hold its seen keys: whole vectors from .. to of the row, of them begin .. end - 1.
struct Seen {
  int from, begin, end, to;
};

AC_INLINE Seen seen_in_row(const ac::SharedHead& job, const TileRange& tile, int query) {
  const int position = tile.first_query + query;
  const int begin = first_seen(job, position) - tile.first_key, end = position + 1 - tile.first_key;
  return {begin / LANES * LANES, begin, end, (end + LANES - 1) / LANES * LANES};
}

// Keys that are not seen get `inside` in the vectors of seen ones, and 0 elsewhere as far as products read the row.
AC_INLINE void hide_unseen(const Seen& seen, int row_length, float inside, float* row) {
  const int end = seen.end + TILE_ROWS < row_length ? seen.end + TILE_ROWS : row_length;
  for (int i = 0; i < seen.from; ++i) row[i] = 0.0f;
  for (int i = seen.from; i < seen.begin; ++i) row[i] = inside;
  for (int i = seen.end; i < seen.to; ++i) row[i] = inside;
  for (int i = seen.to; i < end; ++i) row[i] = 0.0f;
}

// A row of scores -> e^(score - largest); returns the largest in `top` and the sum.
AC_INLINE float soften(const Seen& seen, float* row, float& top) {
  V largest_yet = splat(-INFINITY), total = splat(0.0f);
  for (int i = seen.from; i < seen.to; i += LANES) largest_yet = max(load(row + i), largest_yet);
  top = largest(largest_yet);
  for (int i = seen.from; i < seen.to; i += LANES) {
    const V weight = exp(sub(load(row + i), splat(top)));
    store(row + i, weight);
    total = add(total, weight);
  }
  return sum(total);
}

}  // namespace
