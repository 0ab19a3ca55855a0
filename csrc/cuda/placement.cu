// Rotation of queries and keys, and the writing of keys and values; one warp works on one head of one row.
#include "launch.h"
#include "rows.h"
#include "warp.h"

namespace acu {
namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;

// 1 / sqrt(mean(x^2) + eps) of a head that the lanes of a warp read in turns
__device__ float head_scale(const float* head, const float* bias, int dim, float eps, int lane) {
  float squares = 0.0f;
  for (int d = lane; d < dim; d += WARP) {
    const float x = bias ? head[d] + bias[d] : head[d];
    squares = __fmaf_rn(x, x, squares);
  }
  return 1.0f / sqrtf(over_lanes(squares, Sum()) / static_cast<float>(dim) + eps);
}

// Where a row's keys and values go.
template <class T>
struct Target {
  T* block;
  int token;
};

template <class T>
__device__ Target<T> find_target(const Placement& job, int row) {
  const int position = job.positions[row], tokens = job.shape.block_tokens;
  const int64_t entry = static_cast<int64_t>(job.slots[row]) * job.max_blocks + position / tokens;
  return {static_cast<T*>(job.pool) + job.block_tables[entry] * job.shape.numbers(), position % tokens};
}

// A query or key head: (a, b) -> (a cos - b sin, b cos + a sin) for its halves. A lane owns pairs lane, lane + 32, ...
template <class T>
__device__ void rotate(const Placement& job, int row, int head, float* x, const float* bias, const Target<T>& target) {
  const int lane = threadIdx.x % WARP, dim = job.shape.head_dim, half = dim / 2;
  const bool is_key = head >= job.heads;
  const float* norm = is_key ? job.key_norm : job.query_norm;
  const float scale = norm ? head_scale(x, bias, dim, job.eps, lane) : 1.0f;
  const int64_t angles = static_cast<int64_t>(job.positions[row]) * half;
  for (int i = lane; i < half; i += WARP) {
    float a = x[i], b = x[half + i];
    if (bias) a += bias[i], b += bias[half + i];
    if (norm) a = a * scale * norm[i], b = b * scale * norm[half + i];
    const float c = job.cosines[angles + i], s = job.sines[angles + i];
    const float first = a * c - b * s, second = b * c + a * s;
    if (!is_key) {
      x[i] = first, x[half + i] = second;
    } else {
      put(target.block + job.shape.key(head - job.heads, target.token, i), first);
      put(target.block + job.shape.key(head - job.heads, target.token, half + i), second);
    }
  }
}

template <class T>
__device__ void write_values(const Placement& job, int kv_head, const float* x, const float* bias,
                             const Target<T>& target) {
  for (int d = threadIdx.x % WARP; d < job.shape.head_dim; d += WARP) {
    put(target.block + job.shape.value(kv_head, target.token, d), bias ? x[d] + bias[d] : x[d]);
  }
}

template <class T>
__global__ void place_kernel(Placement job) {
  const int row = blockIdx.x, dim = job.shape.head_dim, keys_end = job.heads + job.shape.kv_heads;
  const int all_heads = keys_end + job.shape.kv_heads;
  if (job.slots[row] < 0) return;  // idle
  const Target<T> target = find_target<T>(job, row);
  float* qkv = job.qkv + static_cast<int64_t>(row) * all_heads * dim;
  for (int head = threadIdx.x / WARP; head < all_heads; head += WARPS) {
    float* x = qkv + head * dim;
    const float* bias = job.bias ? job.bias + head * dim : nullptr;
    if (head < keys_end) {
      rotate(job, row, head, x, bias, target);
    } else {
      write_values(job, head - keys_end, x, bias, target);
    }
  }
}

}  // namespace

void place_rows(const Placement& job, int rows, cudaStream_t stream) {
  launch(job.is_narrow ? place_kernel<Bf16> : place_kernel<float>, dim3(rows), THREADS, 0, stream, job);
}

}  // namespace acu
