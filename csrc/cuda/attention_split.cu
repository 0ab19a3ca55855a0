// Decode attention: each context is cut into chunks, one block of eight warps works on a chunk for up to eight query
// heads of one key head, a warp on one tile; a second kernel puts the chunks of a row together.
#include "attention_tile.h"
#include "launch.h"

namespace acu {
namespace {

constexpr int THREADS = TILES_PER_CHUNK * WARP;
constexpr int JOIN_WARPS = 4;
constexpr int MOST_HEADS = 8;

int count_chunks(int longest) { return static_cast<int>(ceil_divide(longest, CHUNK)); }

// Results of a block's warps, one tile each.
template <int D, int M>
struct TileResults {
  Softmax softmax[TILES_PER_CHUNK][M];
  float outputs[TILES_PER_CHUNK][M][D];
};

template <class T, int D, int M>
__device__ void work_on_tile(const Attention& job, int row, int kv_head, int tile, Range seen,
                             const Queries<D, M>& queries, Weights<M>& weights, TileResults<D, M>& results) {
  Range all_seen[M];
#pragma unroll
  for (int m = 0; m < M; ++m) all_seen[m] = seen;
  Softmax softmax[M];
  Outputs<D, M> outputs;
  const KeyValues<T> source = keys_of<T>(job, job.slots[row], kv_head);
  attend_tile<T, D, M>(source, tile, all_seen, queries, weights, softmax, outputs);
  const int lane = threadIdx.x % WARP, place = tile % TILES_PER_CHUNK;
  constexpr int OWNED = Outputs<D, M>::OWNED;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (lane == 0) results.softmax[place][m] = softmax[m];
#pragma unroll
    for (int o = 0; o < OWNED; ++o) results.outputs[place][m][lane * OWNED + o] = outputs.at[m][o];
  }
}

// Grid: chunks, key heads times head groups, rows.
template <class T, int D, int M>
__global__ void __launch_bounds__(THREADS) split_kernel(Attention job, float* partials) {
  __shared__ Queries<D, M> queries;
  __shared__ Weights<M> weights[TILES_PER_CHUNK];
  __shared__ TileResults<D, M> results;
  const int chunk = blockIdx.x, row = blockIdx.z, per_key = job.heads / job.shape.kv_heads;
  const Grouping grouping = group_queries(per_key, M);
  const int kv_head = blockIdx.y / grouping.head_groups;
  const int first_of_key = blockIdx.y % grouping.head_groups * grouping.heads_each;
  const int first_head = kv_head * per_key + first_of_key, count = smaller(grouping.heads_each, per_key - first_of_key);
  const Range seen = seen_from(job.positions[row], job.window);
  if (job.slots[row] < 0 || !seen.meets(chunk_range(chunk))) return;

  const int64_t width = static_cast<int64_t>(job.heads + 2 * job.shape.kv_heads) * D;
  const float* row_queries = job.qkv + row * width + first_head * D;
  for (int i = threadIdx.x; i < M * D; i += THREADS) {
    queries.at[i / D][i % D] = i < count * D ? row_queries[i] * job.scale : 0.0f;
  }
  __syncthreads();
  const int warp = threadIdx.x / WARP, tile = chunk * TILES_PER_CHUNK + warp;
  if (seen.meets(tile_range(tile))) {
    work_on_tile<T, D, M>(job, row, kv_head, tile, seen, queries, weights[warp], results);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * D; i += THREADS) {
    const int m = i / D, d = i % D;
    Softmax state;
    float output = 0.0f;
    for (int place = 0; place < TILES_PER_CHUNK; ++place) {
      if (!seen.meets(tile_range(chunk * TILES_PER_CHUNK + place))) continue;
      output = merge(state, results.softmax[place][m]).mix(output, results.outputs[place][m][d]);
    }
    float* partial = partials + partial_start(row, job.heads, first_head + m, gridDim.x, chunk, D);
    partial[d] = output;
    if (d == 0) partial[D] = state.top, partial[D + 1] = state.sum;
  }
}

// One warp puts the chunks of one head of one row together. Grid: head groups of JOIN_WARPS, rows.
template <int D>
__global__ void __launch_bounds__(JOIN_WARPS* WARP) join_kernel(Attention job, const float* partials, int chunks) {
  constexpr int OWNED = D / WARP;
  const int row = blockIdx.y, head = blockIdx.x * JOIN_WARPS + threadIdx.x / WARP;
  if (head >= job.heads) return;
  const int owned = threadIdx.x % WARP * OWNED;
  Softmax state;
  float outputs[OWNED] = {};
  if (job.slots[row] >= 0) {
    const Range seen = seen_from(job.positions[row], job.window);
    for (int chunk = seen.first / CHUNK; chunk <= seen.last / CHUNK; ++chunk) {
      const float* partial = partials + partial_start(row, job.heads, head, chunks, chunk, D);
      const Blend blend = merge(state, {partial[D], partial[D + 1]});
#pragma unroll
      for (int o = 0; o < OWNED; ++o) outputs[o] = blend.mix(outputs[o], partial[owned + o]);
    }
  }
  const float factor = job.slots[row] >= 0 ? 1.0f / state.sum : 0.0f;
  const int64_t to = (static_cast<int64_t>(row) * job.heads + head) * D + owned;
#pragma unroll
  for (int o = 0; o < OWNED; ++o) job.output.write(to + o, outputs[o] * factor);
}

template <class T, int D, int M>
void start(const Attention& job, int rows, int chunks, float* partials, cudaStream_t stream) {
  const Grouping grouping = group_queries(job.heads / job.shape.kv_heads, M);
  const dim3 grid(chunks, job.shape.kv_heads * grouping.head_groups, rows);
  launch(split_kernel<T, D, M>, grid, THREADS, 0, stream, job, partials);
  const dim3 join_grid(static_cast<unsigned>(ceil_divide(job.heads, JOIN_WARPS)), rows);
  launch(join_kernel<D>, join_grid, JOIN_WARPS * WARP, 0, stream, job, partials, chunks);
}

template <class T, int D>
void choose_group(const Attention& job, int rows, int chunks, float* partials, cudaStream_t stream) {
  const int per_key = job.heads / job.shape.kv_heads;
  const auto starter = per_key == 1 ? start<T, D, 1>
                       : per_key == 2 ? start<T, D, 2>
                       : per_key <= 4 ? start<T, D, 4>
                                      : start<T, D, MOST_HEADS>;
  starter(job, rows, chunks, partials, stream);
}

template <class T>
void choose_dim(const Attention& job, int rows, int chunks, float* partials, cudaStream_t stream) {
  const int dim = job.shape.head_dim;
  const auto starter = dim == 32 ? choose_group<T, 32> : dim == 64 ? choose_group<T, 64> : choose_group<T, 128>;
  starter(job, rows, chunks, partials, stream);
}

}  // namespace

int64_t partial_floats(int rows, int heads, int head_dim, int longest) {
  return partial_start(rows, heads, 0, count_chunks(longest), 0, head_dim);
}

void attend_split(const Attention& job, int rows, int longest, float* partials, cudaStream_t stream) {
  const auto starter = job.is_narrow ? choose_dim<Bf16> : choose_dim<float>;
  starter(job, rows, count_chunks(longest), partials, stream);
}

}  // namespace acu
