// Kernels of single rows: normalisation, rotation, and writing keys and values into the cache.
#pragma once
#include <cmath>

#include "kernels.h"
#include "vec.h"

namespace {

float mean_square(const float* x, int n) {
  V squares = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (; i < n; ++i) total += x[i] * x[i];
  return total / static_cast<float>(n);
}

// 1 / sqrt(mean(x^2) + eps)
AC_INLINE float reciprocal_root_mean_square(const float* x, int n, float eps) {
  return 1.0f / sqrtf(mean_square(x, n) + eps);
}

template <class T>
AC_INLINE void scale_row(const float* x, const float* weight, int n, float scale, T* to) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, mul(mul(load(x + i), splat(scale)), load(weight + i)));
  for (; i < n; ++i) put(to + i, x[i] * scale * weight[i]);
}

AC_INLINE float mean_of(const float* x, int n) {
  V numbers = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) numbers = add(load(x + i), numbers);
  float total = sum(numbers);
  for (; i < n; ++i) total += x[i];
  return total / static_cast<float>(n);
}

AC_INLINE float reciprocal_deviation(const float* x, int n, float mean, float eps) {
  V squares = splat(0.0f);
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    const V far = sub(load(x + i), splat(mean));
    squares = fma(far, far, squares);
  }
  float total = sum(squares);
  for (; i < n; ++i) total += (x[i] - mean) * (x[i] - mean);
  return 1.0f / sqrtf(total / static_cast<float>(n) + eps);
}

template <class T>
void normalise_to(const float* x, const ac::Norm& norm, int n, float eps, T* to) {
  int i = 0;
  if (!norm.weight) {
    for (; i + LANES <= n; i += LANES) store(to + i, load(x + i));
    for (; i < n; ++i) put(to + i, x[i]);
  } else if (!norm.bias) {
    scale_row(x, norm.weight, n, reciprocal_root_mean_square(x, n, eps), to);
  } else {
    const float mean = mean_of(x, n), scale = reciprocal_deviation(x, n, mean, eps);
    for (; i + LANES <= n; i += LANES) {
      const V centred = mul(sub(load(x + i), splat(mean)), splat(scale));
      store(to + i, fma(centred, load(norm.weight + i), load(norm.bias + i)));
    }
    for (; i < n; ++i) put(to + i, (x[i] - mean) * scale * norm.weight[i] + norm.bias[i]);
  }
}

void normalise(const float* x, const ac::Norm& norm, int n, float eps, ac::Rows output) {
  if (output.narrow) {
    normalise_to(x, norm, n, eps, output.narrow);
  } else {
    normalise_to(x, norm, n, eps, output.wide);
  }
}

void cap_row(float* x, int64_t n, float limit) {
  const V high = splat(limit), inverse = splat(1.0f / limit);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, mul(high, tanh(mul(load(x + i), inverse))));
  if (i == n) return;
  float lanes[LANES] = {};
  for (int64_t j = i; j < n; ++j) lanes[j - i] = x[j];
  store(lanes, mul(high, tanh(mul(load(lanes), inverse))));
  for (int64_t j = i; j < n; ++j) x[j] = lanes[j - i];
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

void place_row(const ac::HeadWork& work, float* qkv, const float* means, const float* cosines, const float* sines,
               int block, int place) {
  const ac::Cache& cache = work.cache;
  const int dim = cache.head_dim, queries = work.heads * dim;
  if (means) {
    scale_row(qkv, work.query_norm, queries, 1.0f / sqrtf(means[0] + work.eps), qkv);
    scale_row(qkv + queries, work.key_norm, cache.kv_heads * dim, 1.0f / sqrtf(means[1] + work.eps), qkv + queries);
  }
  for (int head = 0; head < work.heads + cache.kv_heads; ++head) {
    float* at = qkv + head * dim;
    const float* weight = head < work.heads ? work.query_norm : work.key_norm;
    if (weight && !means) scale_row(at, weight, dim, reciprocal_root_mean_square(at, dim, work.eps), at);
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
