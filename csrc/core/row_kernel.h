// Kernels of single rows: normalisation, rotation, and writing keys and values into the cache.
#pragma once
#include <cmath>

#include "kernels.h"
#include "vec.h"

namespace {

// 1 / sqrt(mean(x^2) + eps)
AC_INLINE float reciprocal_root_mean_square(const float* x, int n, float eps) {
  V squares = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (; i < n; ++i) total += x[i] * x[i];
  return 1.0f / sqrtf(total / static_cast<float>(n) + eps);
}

template <class T>
AC_INLINE void scale_row(const float* x, const float* weight, int n, float scale, T* to) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, mul(mul(load(x + i), splat(scale)), load(weight + i)));
  for (; i < n; ++i) put(to + i, x[i] * scale * weight[i]);
}

void normalise(const float* x, const float* weight, int n, float eps, ac::Rows output) {
  const float scale = reciprocal_root_mean_square(x, n, eps);
  if (output.narrow) {
    scale_row(x, weight, n, scale, output.narrow);
  } else {
    scale_row(x, weight, n, scale, output.wide);
  }
}

// (a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b [half] of a head
AC_INLINE void rotate(float* head, const float* cosines, const float* sines, int half) {
  int i = 0;
  for (; i + LANES <= half; i += LANES) {
    const V a = load(head + i), b = load(head + half + i), c = load(cosines + i), s = load(sines + i);
    store(head + i, sub(mul(a, c), mul(b, s)));
    store(head + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = b * cosines[i] + a * sines[i];
  }
}

template <class T>
void write_cache(const ac::Cache& cache, const float* keys, const float* values, int block, int place) {
  const int dim = cache.head_dim, group = place / ac::TOKEN_GROUP, lane = place % ac::TOKEN_GROUP;
  const int64_t keys_of_head = static_cast<int64_t>(cache.block_tokens) * dim;
  T* to = reinterpret_cast<T*>(cache.base + block * cache.block_bytes);
  for (int head = 0; head < cache.kv_heads; ++head, keys += dim) {
    T* column = to + head * keys_of_head + group * ac::TOKEN_GROUP * dim + lane;
    for (int d = 0; d < dim; ++d) put(column + d * ac::TOKEN_GROUP, keys[d]);
  }
  to += cache.kv_heads * keys_of_head + static_cast<int64_t>(place) * cache.value_stride;
  const int64_t values_of_head = static_cast<int64_t>(cache.block_tokens) * cache.value_stride;
  for (int head = 0; head < cache.kv_heads; ++head, values += dim, to += values_of_head) {
    int d = 0;
    for (; d + LANES <= dim; d += LANES) store(to + d, load(values + d));
    for (; d < dim; ++d) put(to + d, values[d]);
  }
}

void place_row(const ac::HeadWork& work, float* qkv, const float* cosines, const float* sines, int block, int place) {
  const ac::Cache& cache = work.cache;
  const int dim = cache.head_dim;
  for (int head = 0; head < work.heads + cache.kv_heads; ++head) {
    float* at = qkv + head * dim;
    const float* weight = head < work.heads ? work.query_norm : work.key_norm;
    if (weight) scale_row(at, weight, dim, reciprocal_root_mean_square(at, dim, work.eps), at);
    rotate(at, cosines, sines, dim / 2);
  }
  const float* keys = qkv + work.heads * dim;
  const float* values = keys + cache.kv_heads * dim;
  if (cache.is_narrow) {
    write_cache<uint16_t>(cache, keys, values, block, place);
  } else {
    write_cache<float>(cache, keys, values, block, place);
  }
}

}  // namespace
