// Causal attention of one key head over sequences that share leading tokens, and its gradient. Scores exist for
// QUERY_TILE queries at a time; the gradient computes them again from each query's largest score and sum (Dao et al.
// 2022, algorithms 1 and 4). Tiles begin at a sequence's first query, so nothing depends on its neighbours in the call.
//
// Keys lie by position: a sequence overwrites those of the one before it from its first own token on.
#pragma once
#include "training_attention_tile.h"

namespace {

// Working memory in whole cache lines.
class Stretch {
 public:
  explicit Stretch(float* base) : next_(base) {}
  float* take(int64_t floats) {
    float* taken = next_;
    next_ += ac::round_up(floats, ac::SCRATCH_UNIT);
    return taken;
  }

 private:
  float* next_;
};

// Working memory of one job. [keys] are padded, [tile] is QUERY_TILE rows, panels are as transpose_rows makes them.
struct ForwardSpace {
  float *key_panels, *values;  // values [keys, width]
  float *queries, *sums;       // [tile, width]
  float* scores;               // [tile, score_stride]

  ForwardSpace(const ac::SharedHead& job, float* scratch) {
    const int64_t of_keys = static_cast<int64_t>(padded_keys(job)) * padded_width(job);
    const int64_t of_tile = ac::QUERY_TILE * padded_width(job);
    Stretch memory(scratch);
    key_panels = memory.take(of_keys);
    values = memory.take(of_keys);
    queries = memory.take(of_tile);
    sums = memory.take(of_tile);
    scores = memory.take(ac::QUERY_TILE * score_stride(job));
  }
};

struct BackwardSpace {
  float *key_panels, *value_panels;
  float *keys, *key_grads, *value_grads;  // [keys, width]
  float *queries, *query_grads, *grads;   // [tile, width]
  float *scores, *slopes;                 // [tile, score_stride]

  BackwardSpace(const ac::SharedHead& job, float* scratch) {
    const int64_t of_keys = static_cast<int64_t>(padded_keys(job)) * padded_width(job);
    const int64_t of_tile = ac::QUERY_TILE * padded_width(job);
    Stretch memory(scratch);
    key_panels = memory.take(of_keys);
    value_panels = memory.take(of_keys);
    keys = memory.take(of_keys);
    key_grads = memory.take(of_keys);
    value_grads = memory.take(of_keys);
    queries = memory.take(of_tile);
    query_grads = memory.take(of_tile);
    grads = memory.take(of_tile);
    scores = memory.take(ac::QUERY_TILE * score_stride(job));
    slopes = memory.take(ac::QUERY_TILE * score_stride(job));
  }
};

AC_INLINE int64_t query_offset(const ac::SharedHead& job, int query, int head) {
  return (query - job.first_query) * job.query_stride + static_cast<int64_t>(head) * job.head_dim;
}
AC_INLINE float* statistics_of(const ac::SharedHead& job, int query, int head) {
  return job.statistics + (query - job.first_query) * job.statistics_stride + head * 2;
}
AC_INLINE float score_scale(const ac::SharedHead& job) { return 1.0f / sqrtf(static_cast<float>(job.head_dim)); }

// rows [length, width], those of own tokens = rotated keys, or = values.
void copy_keys(const ac::SharedHead& job, float* rows) {
  const int width = padded_width(job);
  for (int i = job.shared; i < job.length; ++i) {
    prefetch_head(job, job.k + i * job.key_stride, job.key_stride);
    copy_rotated(job, job.k + i * job.key_stride, i, 1.0f, rows + static_cast<int64_t>(i) * width);
  }
}

void copy_values(const ac::SharedHead& job, float* rows) {
  float* own = rows + static_cast<int64_t>(job.shared) * padded_width(job);
  copy_rows(job, job.v + job.shared * job.key_stride, job.key_stride, job.length - job.shared, own);
}

void copy_queries(const ac::SharedHead& job, const TileRange& tile, int head, float* rows) {
  const int width = padded_width(job);
  const float scale = score_scale(job);
  for (int i = 0; i < tile.num_queries; ++i, rows += width) {
    const int query = tile.first_query + i;
    prefetch_head(job, job.q + query_offset(job, query, head), job.query_stride);
    copy_rotated(job, job.q + query_offset(job, query, head), query, scale, rows);
  }
}

void attend_tile(const ac::SharedHead& job, const TileRange& tile, int head, const ForwardSpace& space) {
  copy_queries(job, tile, head, space.queries);
  score(job, tile, space.queries, space.key_panels, space.scores);
  for (int i = 0; i < tile.num_queries; ++i) {
    const Seen seen = seen_in_row(job, tile, i);
    float *row = space.scores + i * score_stride(job), *statistics = statistics_of(job, tile.first_query + i, head);
    if (job.cap > 0.0f) cap_row(row + seen.from, seen.to - seen.from, job.cap);
    hide_unseen(seen, tile.end_key - tile.first_key, -INFINITY, row);
    statistics[1] = 1.0f / soften(seen, row, statistics[0]);
  }
  mix(job, tile, space.scores, space.values, space.sums);
  for (int i = 0; i < tile.num_queries; ++i) {
    const int query = tile.first_query + i;
    const float *sums = space.sums + i * padded_width(job), factor = statistics_of(job, query, head)[1];
    float* out = job.out + query_offset(job, query, head);
    copy_scaled(sums, factor, job.head_dim, out);
  }
}

void attend_sequence(const ac::SharedHead& job, const ForwardSpace& space) {
  copy_keys(job, space.values);
  transpose_rows(job, space.values, space.key_panels);
  copy_values(job, space.values);
  for (int head = 0; head < job.group; ++head) {
    for (int query = job.first_query; query < job.end_query; query += ac::QUERY_TILE) {
      attend_tile(job, tile_at(job, query), head, space);
    }
  }
}

AC_INLINE float dot(const float* a, const float* b, int n) {
  V products = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) products = fma(load(a + i), load(b + i), products);
  float total = sum(products);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

// slopes [key] of capped scores s -> those of the scores before: times 1 - (s / cap)^2, 0 where s is -infinity.
AC_INLINE void unbend_row(const Seen& seen, float cap, const float* scores, float* slopes) {
  const V low = splat(-cap), inverse = splat(1.0f / cap);
  for (int i = seen.from; i < seen.to; i += LANES) {
    const V share = mul(max(load(scores + i), low), inverse);
    store(slopes + i, mul(load(slopes + i), sub(splat(1.0f), mul(share, share))));
  }
}

// Of one query: scores -> weights p, and slopes [key] = grad v' -> p (grad v' - grad o').
AC_INLINE void differentiate_row(const Seen& seen, const float* statistics, float along, float cap, float* scores,
                                 float* slopes) {
  const V top = splat(statistics[0]), factor = splat(statistics[1]), shift = splat(along);
  if (cap > 0.0f) {
    for (int i = seen.from; i < seen.to; i += LANES) store(slopes + i, sub(load(slopes + i), shift));
    unbend_row(seen, cap, scores, slopes);
  }
  for (int i = seen.from; i < seen.to; i += LANES) {
    const V weight = mul(exp(sub(load(scores + i), top)), factor);
    store(scores + i, weight);
    store(slopes + i, mul(weight, cap > 0.0f ? load(slopes + i) : sub(load(slopes + i), shift)));
  }
}

// dv += p' g; ds = p (g v' - g o'); dq = ds k; dk += ds' q
void attend_tile_backward(const ac::SharedHead& job, const TileRange& tile, int head, const BackwardSpace& space) {
  const int width = padded_width(job), row_length = tile.end_key - tile.first_key;
  copy_queries(job, tile, head, space.queries);
  const int64_t first = query_offset(job, tile.first_query, head);
  copy_rows(job, job.grad + first, job.query_stride, tile.num_queries, space.grads);
  score(job, tile, space.queries, space.key_panels, space.scores);
  score(job, tile, space.grads, space.value_panels, space.slopes);
  for (int i = 0; i < tile.num_queries; ++i) {
    const int query = tile.first_query + i;
    const Seen seen = seen_in_row(job, tile, i);
    float *scores = space.scores + i * score_stride(job), *slopes = space.slopes + i * score_stride(job);
    prefetch_head(job, job.out + query_offset(job, query, head), job.query_stride);
    const float along = dot(job.out + query_offset(job, query, head), space.grads + i * width, job.head_dim);
    if (job.cap > 0.0f) cap_row(scores + seen.from, seen.to - seen.from, job.cap);
    hide_unseen(seen, row_length, -INFINITY, scores);
    hide_unseen(seen, row_length, 0.0f, slopes);
    differentiate_row(seen, statistics_of(job, query, head), along, job.cap, scores, slopes);
  }
  add_transposed(job, tile, space.scores, space.grads, space.value_grads);
  add_transposed(job, tile, space.slopes, space.queries, space.key_grads);
  mix(job, tile, space.slopes, space.keys, space.query_grads);
  for (int i = 0; i < tile.num_queries; ++i) {
    const int query = tile.first_query + i;
    float* to = job.q_grad + query_offset(job, query, head);
    copy_rotated_back(job, space.query_grads + i * width, query, score_scale(job), to);
  }
}

void attend(ac::SharedHead* jobs, int count, float* scratch) {
  const ForwardSpace space(jobs[0], scratch);
  for (int i = 0; i < count; ++i) attend_sequence(jobs[i], space);
}

// Writes the gradients of keys and values from position `from` on, which no later sequence adds to.
void write_key_grads(ac::SharedHead* jobs, int count, int from, const BackwardSpace& space) {
  const int width = padded_width(jobs[0]);
  for (int i = count - 1; i >= 0; --i) {
    ac::SharedHead& job = jobs[i];
    const int begin = job.shared > from ? job.shared : from;
    for (int position = begin; position < job.unwritten; ++position) {
      const int64_t row = static_cast<int64_t>(position) * width, at = position * job.key_stride;
      copy_rotated_back(job, space.key_grads + row, position, 1.0f, job.k_grad + at);
      std::memcpy(job.v_grad + at, space.value_grads + row, job.head_dim * sizeof(float));
    }
    if (begin < job.unwritten) job.unwritten = begin;
  }
}

void attend_sequence_backward(const ac::SharedHead& job, const BackwardSpace& space) {
  const int64_t width = padded_width(job), first = job.shared * width;
  const size_t bytes = (job.length - job.shared) * width * sizeof(float);
  copy_values(job, space.keys);
  transpose_rows(job, space.keys, space.value_panels);
  copy_keys(job, space.keys);
  transpose_rows(job, space.keys, space.key_panels);
  std::memset(space.key_grads + first, 0, bytes);
  std::memset(space.value_grads + first, 0, bytes);
  for (int head = 0; head < job.group; ++head) {
    for (int query = job.first_query; query < job.end_query; query += ac::QUERY_TILE) {
      attend_tile_backward(job, tile_at(job, query), head, space);
    }
  }
}

void attend_backward(ac::SharedHead* jobs, int count, float* scratch) {
  const BackwardSpace space(jobs[0], scratch);
  for (int i = 0; i < count; ++i) {
    write_key_grads(jobs, i, jobs[i].shared, space);
    attend_sequence_backward(jobs[i], space);
  }
  write_key_grads(jobs, count, 0, space);
}

}  // namespace
