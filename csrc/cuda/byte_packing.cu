// int8 weights from the caller's layout: scales first, then the numbers. The operations are those of
// csrc/core/weights.cc, so a matrix has the CPU's numbers and scales.
#include <cfloat>

#include "byte_products.h"
#include "launch.h"
#include "layout.h"
#include "warp.h"

namespace acu {
namespace {

constexpr int SIDE = 32;  // of a tile: neighbouring lanes read what lies together, and write what lies together
constexpr int THREADS = 256;

template <class T>
struct Source {
  const T* data;
  bool outputs_first;
  int64_t inputs, outputs;

  __device__ float at(int64_t input, int64_t output) const {
    if (input >= inputs || output >= outputs) return 0.0f;
    return widen(data[outputs_first ? output * inputs + input : input * outputs + output]);
  }
};

struct Tile {
  float at[SIDE][SIDE + 1];  // [output][input]; + 1: columns lie in different banks
};

template <class T>
__device__ void load_tile(const Source<T>& from, int64_t output, int64_t input, Tile& tile) {
  const int lane = threadIdx.x % SIDE;
  for (int row = threadIdx.x / SIDE; row < SIDE; row += THREADS / SIDE) {
    const int o = from.outputs_first ? row : lane, i = from.outputs_first ? lane : row;
    tile.at[o][i] = from.at(input + i, output + o);
  }
  __syncthreads();
}

__global__ void clear_kernel(float* scales, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i < count) scales[i] = 0.0f;
}

// The largest magnitude of each output. Floats that are not negative are ordered as their bits; infinity and NaN are last.
template <class T>
__global__ void largest_kernel(Source<T> from, float* largest) {
  __shared__ Tile tile;
  const int64_t output = static_cast<int64_t>(blockIdx.x) * SIDE, input = static_cast<int64_t>(blockIdx.y) * SIDE;
  load_tile(from, output, input, tile);
  if (threadIdx.x >= SIDE || output + threadIdx.x >= from.outputs) return;
  uint32_t most = 0;
  for (int i = 0; i < SIDE; ++i) {
    const uint32_t bits = as_bits(tile.at[threadIdx.x][i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  atomicMax(reinterpret_cast<unsigned*>(largest + output + threadIdx.x), most);
}

__global__ void scale_kernel(float* scales, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= count) return;
  const float scale = is_finite(scales[i]) ? scales[i] / 127.0f : NAN;
  scales[i] = scale < FLT_MIN ? 0.0f : scale;  // its inverse would not be finite
}

// The nearest whole number; of two the even one.
__device__ inline int8_t rounded(float x) {
  return static_cast<int8_t>(as_bits(x + 12582912.0f));  // 1.5 * 2^23: no digit is left behind the point
}

template <class T>
__global__ void pack_kernel(Source<T> from, ByteMatrix to) {
  __shared__ Tile tile;
  const int64_t output = static_cast<int64_t>(blockIdx.x) * SIDE, input = static_cast<int64_t>(blockIdx.y) * SIDE;
  load_tile(from, output, input, tile);
  const int lane = threadIdx.x % SIDE;
  for (int o = threadIdx.x / SIDE; o < SIDE && output + o < from.outputs; o += THREADS / SIDE) {
    const float scale = to.scales[output + o], inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    to.numbers[(output + o) * byte_pitch(from.inputs) + input + lane] = rounded(tile.at[o][lane] * inverse);
  }
}

template <class T>
void pack(const Source<T>& from, const ByteMatrix& to, cudaStream_t stream) {
  const dim3 outputs(static_cast<unsigned>(ceil_divide(from.outputs, THREADS)));
  const dim3 tiles(static_cast<unsigned>(ceil_divide(from.outputs, SIDE)),
                   static_cast<unsigned>(byte_pitch(from.inputs) / SIDE));
  launch(clear_kernel, outputs, THREADS, 0, stream, to.scales, from.outputs);
  launch(largest_kernel<T>, tiles, THREADS, 0, stream, from, to.scales);
  launch(scale_kernel, outputs, THREADS, 0, stream, to.scales, from.outputs);
  launch(pack_kernel<T>, tiles, THREADS, 0, stream, from, to);
}

}  // namespace

void pack_bytes(const void* from, bool from_narrow, bool outputs_first, const ByteMatrix& to, int64_t inputs,
                int64_t outputs, cudaStream_t stream) {
  if (from_narrow) {
    pack(Source<Bf16>{static_cast<const Bf16*>(from), outputs_first, inputs, outputs}, to, stream);
  } else {
    pack(Source<float>{static_cast<const float*>(from), outputs_first, inputs, outputs}, to, stream);
  }
}

}  // namespace acu
