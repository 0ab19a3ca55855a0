// Products of int8 weights by tensor cores. Whole numbers up to 127 are bf16 numbers, so only the inputs are rounded,
// and f32 inputs are not: they are the sum of three bf16 numbers. The four warps of a block take slices of the inputs
// in turns and add their sums in order at the end, so an output's bits depend on nothing but its row and its matrix.
#include "byte_products.h"

#include <mma.h>

#include "launch.h"
#include "layout.h"
#include "warp.h"

namespace acu {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int OUTPUTS = 32;              // of a block
constexpr int SIDE = 16;                 // of a tile of the tensor cores
constexpr int PITCH = BYTE_SLICE + 8;    // of a slice in shared memory, where rows begin in different banks
constexpr int BYTES = 16;                // weights that a lane loads at once
constexpr int LOADS = OUTPUTS * BYTE_SLICE / BYTES / WARP;
constexpr int NUMBERS = 8;               // inputs that a lane loads at once

using Sums = wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float>;
using Left = wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major>;
using Right = wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::col_major>;

// How many bf16 numbers an input is the sum of.
template <class T>
constexpr int PARTS = 1;
template <>
constexpr int PARTS<float> = 3;

// What a warp keeps in shared memory: its slice of weights and inputs, and at the end its sums.
template <int ROWS>
struct Slice {
  union {
    struct {
      alignas(32) Bf16 weights[OUTPUTS * PITCH], inputs[ROWS * PITCH];
    };
    alignas(32) float sums[ROWS * OUTPUTS];
  };
};

struct Weights {
  Packet<int8_t, BYTES> at[LOADS];
};

// Lanes beside each other load packets of the same output. Outputs that do not exist are the last one again.
__device__ void load_weights(const ByteProduct& job, int slice, int lane, Weights& weights) {
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const int place = i * WARP + lane, output = blockIdx.x * OUTPUTS + place / (BYTE_SLICE / BYTES);
    const int8_t* row = job.weights.numbers + smaller(output, job.out - 1) * byte_pitch(job.in);
    weights.at[i] = load_packet<BYTES>(row + slice * BYTE_SLICE + place % (BYTE_SLICE / BYTES) * BYTES);
  }
}

__device__ void keep_weights(const Weights& weights, int lane, Bf16* to) {
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const int place = i * WARP + lane;
    Bf16* at = to + place / (BYTE_SLICE / BYTES) * PITCH + place % (BYTE_SLICE / BYTES) * BYTES;
#pragma unroll
    for (int j = 0; j < BYTES; ++j) put(at + j, static_cast<float>(weights.at[i].at[j]));
  }
}

// Inputs first .. of a row, zero where there are none.
template <class T>
__device__ Packet<T, NUMBERS> load_inputs(const T* inputs, const ByteProduct& job, int row, int first) {
  if (row < job.rows && job.in % NUMBERS == 0 && first < job.in) {
    return load_packet<NUMBERS>(inputs + static_cast<int64_t>(row) * job.in + first);
  }
  Packet<T, NUMBERS> numbers{};
  if (row >= job.rows) return numbers;
  for (int i = 0; i < NUMBERS && first + i < job.in; ++i) {
    numbers.at[i] = inputs[static_cast<int64_t>(row) * job.in + first + i];
  }
  return numbers;
}

// Part `part` of x: what is left of it after the parts before, rounded.
__device__ inline Bf16 part_of(Bf16 x, int) { return x; }
__device__ inline Bf16 part_of(float x, int part) {
  Bf16 rounded;
  put(&rounded, x);
  for (int i = 0; i < part; ++i) {
    x -= widen(rounded);
    put(&rounded, x);
  }
  return rounded;
}

template <class T, int ROWS>
__device__ void keep_inputs(const T* inputs, const ByteProduct& job, int slice, int part, int lane, Bf16* to) {
  for (int place = lane; place < ROWS * BYTE_SLICE / NUMBERS; place += WARP) {
    const int row = place / (BYTE_SLICE / NUMBERS), first = place % (BYTE_SLICE / NUMBERS) * NUMBERS;
    const auto numbers = load_inputs(inputs, job, blockIdx.y * ROWS + row, slice * BYTE_SLICE + first);
#pragma unroll
    for (int i = 0; i < NUMBERS; ++i) to[row * PITCH + first + i] = part_of(numbers.at[i], part);
  }
}

__device__ inline const __nv_bfloat16* as_device_type(const Bf16* from) {
  return reinterpret_cast<const __nv_bfloat16*>(from);
}

template <int ROWS>
__device__ void add_slice(const Slice<ROWS>& slice, Sums (&sums)[ROWS / SIDE][OUTPUTS / SIDE]) {
#pragma unroll
  for (int k = 0; k < BYTE_SLICE; k += SIDE) {
    Right weights[OUTPUTS / SIDE];
#pragma unroll
    for (int o = 0; o < OUTPUTS / SIDE; ++o) {
      wmma::load_matrix_sync(weights[o], as_device_type(slice.weights + o * SIDE * PITCH + k), PITCH);
    }
#pragma unroll
    for (int r = 0; r < ROWS / SIDE; ++r) {
      Left inputs;
      wmma::load_matrix_sync(inputs, as_device_type(slice.inputs + r * SIDE * PITCH + k), PITCH);
#pragma unroll
      for (int o = 0; o < OUTPUTS / SIDE; ++o) wmma::mma_sync(sums[r][o], inputs, weights[o], sums[r][o]);
    }
  }
}

// Add the warps' sums in order.
template <int ROWS>
__device__ void write_outputs(const ByteProduct& job, const Slice<ROWS>* slices) {
  for (int i = threadIdx.x; i < ROWS * OUTPUTS; i += THREADS) {
    const int row = blockIdx.y * ROWS + i / OUTPUTS, output = blockIdx.x * OUTPUTS + i % OUTPUTS;
    if (row >= job.rows || output >= job.out) continue;
    float sum = slices[0].sums[i];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) sum += slices[warp].sums[i];
    job.outputs[static_cast<int64_t>(row) * job.out + output] = sum * job.weights.scales[output];
  }
}

template <class T, int ROWS>
__global__ void __launch_bounds__(THREADS) multiply_kernel(ByteProduct job, const T* inputs) {
  __shared__ Slice<ROWS> slices[WARPS];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int count = static_cast<int>(byte_pitch(job.in) / BYTE_SLICE);
  Slice<ROWS>& own = slices[warp];
  Sums sums[ROWS / SIDE][OUTPUTS / SIDE];
  for (auto& row : sums) {
    for (Sums& tile : row) wmma::fill_fragment(tile, 0.0f);
  }
  Weights coming;
  if (warp < count) load_weights(job, warp, lane, coming);
  for (int slice = warp; slice < count; slice += WARPS) {
    keep_weights(coming, lane, own.weights);
    if (slice + WARPS < count) load_weights(job, slice + WARPS, lane, coming);  // arrives while this one is multiplied
    for (int part = 0; part < PARTS<T>; ++part) {
      keep_inputs<T, ROWS>(inputs, job, slice, part, lane, own.inputs);
      __syncwarp();
      add_slice(own, sums);
      __syncwarp();
    }
  }
  for (int r = 0; r < ROWS / SIDE; ++r) {
    for (int o = 0; o < OUTPUTS / SIDE; ++o) {
      wmma::store_matrix_sync(own.sums + r * SIDE * OUTPUTS + o * SIDE, sums[r][o], OUTPUTS, wmma::mem_row_major);
    }
  }
  __syncthreads();
  write_outputs(job, slices);
}

template <class T, int ROWS>
void start(const ByteProduct& job, const T* inputs, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_divide(job.out, OUTPUTS)),
                  static_cast<unsigned>(ceil_divide(job.rows, ROWS)));
  launch(multiply_kernel<T, ROWS>, grid, THREADS, 0, stream, job, inputs);
}

template <class T>
void multiply(const ByteProduct& job, const T* inputs, cudaStream_t stream) {
  job.rows <= SIDE ? start<T, SIDE>(job, inputs, stream) : start<T, 2 * SIDE>(job, inputs, stream);
}

}  // namespace

void multiply_bytes(const ByteProduct& job, cudaStream_t stream) {
  job.inputs.narrow ? multiply(job, job.inputs.narrow, stream) : multiply(job, job.inputs.wide, stream);
}

}  // namespace acu
