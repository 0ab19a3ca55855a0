// Prefill attention: one warp works on up to four query vectors (neighbouring rows of a slot, query heads of one key
// head) and walks over the positions that they see, tile by tile. Rows may be ragged: a warp's rows are cut into runs
// of one slot, and each query has its own causal range.
#include "attention_tile.h"
#include "launch.h"

namespace acu {
namespace {

constexpr int WARPS = 4;
constexpr int M = 4;

// Query vectors of a run: vector m is row first + m / heads_each, query head first_head + m % heads_each.
struct Run {
  int first, end;              // rows
  int first_head, end_head;
  int heads_each;

  __device__ int row(int m) const { return first + m / heads_each; }
  __device__ int head(int m) const { return first_head + m % heads_each; }
  __device__ bool has(int m) const { return row(m) < end && head(m) < end_head; }
};

// Running softmax and outputs of the query vectors.
template <int D>
struct State {
  Softmax softmax[M];
  Outputs<D, M> outputs = {};

  __device__ void add(int m, const Softmax& softmax_added, const float (&outputs_added)[D / WARP]) {
    const Blend blend = merge(softmax[m], softmax_added);
#pragma unroll
    for (int o = 0; o < D / WARP; ++o) outputs.at[m][o] = blend.mix(outputs.at[m][o], outputs_added[o]);
  }
};

// Vectors that do not exist are zero and see what the first one sees.
template <int D>
__device__ void load_run(const Attention& job, const Run& run, Queries<D, M>& queries, Range (&seen)[M]) {
  const int64_t width = static_cast<int64_t>(job.heads + 2 * job.shape.kv_heads) * D;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const bool exists = run.has(m);
    const float* from = job.qkv + (exists ? run.row(m) : run.first) * width + (exists ? run.head(m) : 0) * D;
    seen[m] = seen_from(job.positions[exists ? run.row(m) : run.first], job.window);
    for (int d = threadIdx.x % WARP; d < D; d += WARP) queries.at[m][d] = exists ? from[d] * job.scale : 0.0f;
  }
  __syncwarp();
}

template <class T, int D>
__device__ State<D> attend_run(const KeyValues<T>& source, const Range (&seen)[M], const Queries<D, M>& queries,
                               Weights<M>& weights) {
  Range all = seen[0];
#pragma unroll
  for (int m = 1; m < M; ++m) all = {smaller(all.first, seen[m].first), larger(all.last, seen[m].last)};
  State<D> whole;
  for (int chunk = all.first / CHUNK; chunk <= all.last / CHUNK; ++chunk) {
    State<D> of_chunk;
    const int first = larger(chunk * TILES_PER_CHUNK, all.first / TILE);
    const int last = smaller(chunk * TILES_PER_CHUNK + TILES_PER_CHUNK - 1, all.last / TILE);
    for (int tile = first; tile <= last; ++tile) {
      if (!any_meets(seen, tile_range(tile))) continue;
      Softmax softmax[M];
      Outputs<D, M> outputs;
      attend_tile<T, D, M>(source, tile, seen, queries, weights, softmax, outputs);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        if (seen[m].meets(tile_range(tile))) of_chunk.add(m, softmax[m], outputs.at[m]);
      }
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if (seen[m].meets(chunk_range(chunk))) whole.add(m, of_chunk.softmax[m], of_chunk.outputs.at[m]);
    }
  }
  return whole;
}

template <int D>
__device__ void write_run(const Attention& job, const Run& run, const State<D>& state, bool is_idle) {
  constexpr int OWNED = D / WARP;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (!run.has(m)) continue;
    const float factor = is_idle ? 0.0f : 1.0f / state.softmax[m].sum;
    const int64_t to = (static_cast<int64_t>(run.row(m)) * job.heads + run.head(m)) * D + threadIdx.x % WARP * OWNED;
#pragma unroll
    for (int o = 0; o < OWNED; ++o) job.output.write(to + o, state.outputs.at[m][o] * factor);
  }
}

// Grid: stretches of rows, key heads times head groups. Warps do not work together.
template <class T, int D>
__global__ void __launch_bounds__(WARPS* WARP) tiles_kernel(Attention job, int first_row, int rows) {
  __shared__ Queries<D, M> queries[WARPS];
  __shared__ Weights<M> weights[WARPS];
  const int warp = threadIdx.x / WARP, per_key = job.heads / job.shape.kv_heads;
  const Grouping grouping = group_queries(per_key, M);
  const int kv_head = blockIdx.y / grouping.head_groups;
  const int first_head = kv_head * per_key + blockIdx.y % grouping.head_groups * grouping.heads_each;
  const int end_head = smaller(first_head + grouping.heads_each, (kv_head + 1) * per_key);
  const int begin = first_row + (blockIdx.x * WARPS + warp) * grouping.rows_each;
  const int end = smaller(begin + grouping.rows_each, rows);
  for (int row = begin, next; row < end; row = next) {
    const int slot = job.slots[row];
    for (next = row + 1; next < end && job.slots[next] == slot;) ++next;
    const Run run{row, next, first_head, end_head, grouping.heads_each};
    State<D> state;
    if (slot >= 0) {
      Range seen[M];
      load_run<D>(job, run, queries[warp], seen);
      state = attend_run<T, D>(keys_of<T>(job, slot, kv_head), seen, queries[warp], weights[warp]);
    }
    write_run<D>(job, run, state, slot < 0);
  }
}

template <class T, int D>
void start(const Attention& job, int first, int rows, cudaStream_t stream) {
  const Grouping grouping = group_queries(job.heads / job.shape.kv_heads, M);
  const int64_t stretches = ceil_divide(rows - first, grouping.rows_each);
  const dim3 grid(static_cast<unsigned>(ceil_divide(stretches, WARPS)), job.shape.kv_heads * grouping.head_groups);
  launch(tiles_kernel<T, D>, grid, WARPS * WARP, 0, stream, job, first, rows);
}

template <class T>
void choose_dim(const Attention& job, int first, int rows, cudaStream_t stream) {
  const int dim = job.shape.head_dim;
  const auto starter = dim == 32 ? start<T, 32> : dim == 64 ? start<T, 64> : start<T, 128>;
  starter(job, first, rows, stream);
}

}  // namespace

void attend_tiles(const Attention& job, int first, int rows, cudaStream_t stream) {
  if (first >= rows) return;
  const auto starter = job.is_narrow ? choose_dim<Bf16> : choose_dim<float>;
  starter(job, first, rows, stream);
}

}  // namespace acu
