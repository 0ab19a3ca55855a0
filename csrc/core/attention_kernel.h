// Attention of a few neighbouring queries over the paged cache. Scores are chains over the head's numbers, outputs are
// chains over ascending positions, and a row's softmax looks at its own positions only, in lanes fixed by position:
// nothing depends on which queries share a tile.
#pragma once
#include <cmath>

#include "kernels.h"
#include "vec.h"

namespace {

constexpr int GROUP = ac::TOKEN_GROUP;
constexpr int GROUP_VECTORS = GROUP / LANES;

// A tile at work. Query vector v = row * queries_per_key + head; scores start at position `begin`, a multiple of GROUP.
template <class T>
struct Span {
  const ac::Cache* cache;
  const int32_t* blocks;
  int kv_head;
  int begin, end;  // positions that some query sees

  const char* block_at(int position) const {
    return cache->base + static_cast<int64_t>(blocks[position / cache->block_tokens]) * cache->block_bytes;
  }
  // keys [head_dim][GROUP] of the group at `position`
  const T* keys(int position) const {
    const int64_t tokens = static_cast<int64_t>(kv_head) * cache->block_tokens + position % cache->block_tokens;
    return reinterpret_cast<const T*>(block_at(position)) + tokens * cache->head_dim;
  }
  // values [value_stride] of one position
  const T* values(int position) const {
    const int64_t all_keys = static_cast<int64_t>(cache->kv_heads) * cache->block_tokens * cache->head_dim;
    const int64_t token = static_cast<int64_t>(kv_head) * cache->block_tokens + position % cache->block_tokens;
    return reinterpret_cast<const T*>(block_at(position)) + all_keys + token * cache->value_stride;
  }
};

// Scores of M queries with B groups of keys; queries [M][stride], scores [M][score_stride].
template <class T, int M, int B>
AC_INLINE void score_groups(const Span<T>& span, int position, const float* queries, int64_t stride, float* scores,
                            int64_t score_stride) {
  const T *keys[B], *values[B];
  for (int b = 0; b < B; ++b) {
    keys[b] = span.keys(position + b * GROUP);
    values[b] = span.values(position + b * GROUP);
  }
  V sums[B][M][GROUP_VECTORS];
  for (auto& of_group : sums) {
    for (auto& of_query : of_group) {
      for (V& s : of_query) s = splat(0.0f);
    }
  }
  for (int d = 0; d < span.cache->head_dim; ++d) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      prefetch(values[b] + d * GROUP);  // needed as soon as all scores are known
#pragma GCC unroll 4
      for (int j = 0; j < GROUP_VECTORS; ++j) {
        const V key = load(keys[b] + d * GROUP + j * LANES);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) sums[b][m][j] = fma(splat(queries[m * stride + d]), key, sums[b][m][j]);
      }
    }
  }
  for (int b = 0; b < B; ++b) {
    for (int m = 0; m < M; ++m) {
      for (int j = 0; j < GROUP_VECTORS; ++j) {
        store(scores + m * score_stride + b * GROUP + j * LANES, sums[b][m][j]);
      }
    }
  }
}

template <class T, int M>
void score(const Span<T>& span, const float* queries, int64_t stride, float* scores, int64_t score_stride) {
  constexpr int AT_ONCE = M == 1 ? 4 : M <= 3 ? 2 : 1;
  int position = span.begin;
  for (; position + AT_ONCE * GROUP <= span.end; position += AT_ONCE * GROUP, scores += AT_ONCE * GROUP) {
    score_groups<T, M, AT_ONCE>(span, position, queries, stride, scores, score_stride);
  }
  for (; position < span.end; position += GROUP, scores += GROUP) {
    score_groups<T, M, 1>(span, position, queries, stride, scores, score_stride);
  }
}

// N vectors of the outputs of M queries: sums of weights [M][weight_stride] times values, from column `column` on.
template <class T, int M, int N>
AC_INLINE void mix_columns(const Span<T>& span, int column, const float* weights, int64_t weight_stride, float* outputs,
                           int64_t stride) {
  V sums[M][N];
  for (auto& of_query : sums) {
    for (V& s : of_query) s = splat(0.0f);
  }
  // From a value to about the same token's key of the next head, which is likely to be worked on next.
  const ac::Cache& cache = *span.cache;
  const int64_t to_next_keys = static_cast<int64_t>(cache.kv_heads - 1) * cache.block_tokens * cache.head_dim;
  for (int position = span.begin; position < span.end;) {
    const int in_block = cache.block_tokens - position % cache.block_tokens;
    const int stop = span.end - position < in_block ? span.end : position + in_block;
    const T* values = span.values(position) + column;
    for (; position < stop; ++position, ++weights, values += cache.value_stride) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        prefetch(values + n * LANES - to_next_keys);
        const V value = load(values + n * LANES);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) sums[m][n] = fma(splat(weights[m * weight_stride]), value, sums[m][n]);
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) store(outputs + m * stride + column + n * LANES, sums[m][n]);
  }
}

template <class T, int M>
void mix(const Span<T>& span, const float* weights, int64_t weight_stride, float* outputs, int64_t stride) {
  constexpr int AT_ONCE = M == 1 ? 4 : 2;
  const int width = span.cache->value_stride;
  int column = 0;
  for (; column + AT_ONCE * LANES <= width; column += AT_ONCE * LANES) {
    mix_columns<T, M, AT_ONCE>(span, column, weights, weight_stride, outputs, stride);
  }
  for (; column < width; column += LANES) {
    mix_columns<T, M, 1>(span, column, weights, weight_stride, outputs, stride);
  }
}

// scores [end - begin] -> cap tanh(score / cap)
AC_INLINE void cap_scores(float* scores, int count, float cap) {
  const V high = splat(cap), inverse = splat(1.0f / cap);
  for (int i = 0; i < count; i += LANES) store(scores + i, mul(high, tanh(mul(load(scores + i), inverse))));
}

// scores [end - begin] -> e^(score - largest) of positions first..last, 0 elsewhere; returns the sum.
float soften(float* scores, int begin, int end, int first, int last) {
  const int from = first / GROUP * GROUP - begin, to = last / GROUP * GROUP + GROUP - begin;
  for (int i = 0; i < first - begin; ++i) scores[i] = i < from ? 0.0f : -INFINITY;
  for (int i = last + 1 - begin; i < end - begin; ++i) scores[i] = i < to ? -INFINITY : 0.0f;
  V top = splat(-INFINITY), total = splat(0.0f);
  for (int i = from; i < to; i += LANES) top = max(load(scores + i), top);
  top = splat(largest(top));
  for (int i = from; i < to; i += LANES) {
    const V weight = exp(sub(load(scores + i), top));
    store(scores + i, weight);
    total = add(total, weight);
  }
  return sum(total);
}

template <class T>
struct TileWork {
  void (*score)(const Span<T>&, const float*, int64_t, float*, int64_t);
  void (*mix)(const Span<T>&, const float*, int64_t, float*, int64_t);
};

template <class T>
struct WorkTable {
  TileWork<T> by_queries[TILE_ROWS + 1];
};

template <class T, int M>
constexpr void list_work(WorkTable<T>& table) {
  table.by_queries[M] = {score<T, M>, mix<T, M>};
  if constexpr (M > 1) list_work<T, M - 1>(table);
}

template <class T>
constexpr WorkTable<T> make_work() {
  WorkTable<T> table{};
  list_work<T, TILE_ROWS>(table);
  return table;
}

template <class T>
constexpr WorkTable<T> WORK = make_work<T>();

// The first position that the query at `position` sees.
AC_INLINE int first_seen(const ac::Attention& job, int position) {
  return job.window > 0 && position >= job.window ? position - job.window + 1 : 0;
}

template <class T>
AC_INLINE void scale_output(const float* from, float factor, int n, T* to) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, mul(load(from + i), splat(factor)));
  for (; i < n; ++i) put(to + i, from[i] * factor);
}

AC_INLINE void write_output(const ac::Rows& output, int64_t at, const float* from, float factor, int n) {
  if (output.narrow) {
    scale_output(from, factor, n, output.narrow + at);
  } else {
    scale_output(from, factor, n, output.wide + at);
  }
}

// Query vectors from .. from + count of the tile, count <= TILE_ROWS.
template <class T>
void attend_queries(const ac::Attention& job, const ac::AttentionTile& tile, int from, int count, float* scratch) {
  const int dim = job.cache.head_dim, width = job.cache.value_stride, per_key = job.heads / job.cache.kv_heads;
  const auto position_of = [&](int v) { return job.positions[tile.rows[(from + v) / per_key]]; };
  const auto head_of = [&](int v) { return tile.kv_head * per_key + (from + v) % per_key; };
  Span<T> span{&job.cache, tile.blocks, tile.kv_head, 0, 0};
  span.begin = first_seen(job, position_of(0)) / GROUP * GROUP;
  span.end = position_of(count - 1) + 1;
  const int64_t stride = width + GROUP, score_stride = (span.end - span.begin + GROUP - 1) / GROUP * GROUP + GROUP;
  float *queries = scratch, *outputs = queries + TILE_ROWS * stride, *scores = outputs + TILE_ROWS * stride;
  for (int v = 0; v < count; ++v) {
    const float* q = job.qkv.wide + tile.rows[(from + v) / per_key] * job.qkv.stride + head_of(v) * dim;
    for (int d = 0; d < dim; ++d) queries[v * stride + d] = q[d] * job.scale;
  }
  const TileWork<T>& work = WORK<T>.by_queries[count];
  work.score(span, queries, stride, scores, score_stride);
  float factors[TILE_ROWS];
  for (int v = 0; v < count; ++v) {
    const int position = position_of(v), end = span.begin + static_cast<int>(score_stride) - GROUP;
    if (job.cap > 0.0f) cap_scores(scores + v * score_stride, end - span.begin, job.cap);
    factors[v] = 1.0f / soften(scores + v * score_stride, span.begin, end, first_seen(job, position), position);
  }
  work.mix(span, scores, score_stride, outputs, stride);
  for (int v = 0; v < count; ++v) {
    const int64_t row = tile.first_output + (from + v) / per_key;
    write_output(job.output, row * job.output.stride + head_of(v) * dim, outputs + v * stride, factors[v], dim);
  }
}

void attend(const ac::Attention& job, const ac::AttentionTile& tile, float* scratch) {
  const int queries = tile.num_rows * (job.heads / job.cache.kv_heads);
  for (int from = 0; from < queries; from += TILE_ROWS) {
    const int count = queries - from < TILE_ROWS ? queries - from : TILE_ROWS;
    if (job.cache.is_narrow) {
      attend_queries<uint16_t>(job, tile, from, count, scratch);
    } else {
      attend_queries<float>(job, tile, from, count, scratch);
    }
  }
}

}  // namespace
