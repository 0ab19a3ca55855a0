// Weights from the caller's layout [in, out] into the kernels' [out, in], which cuBLASLt likes best and in which the
// embedding is its own tied head.
#include "launch.h"
#include "rows.h"
#include "warp.h"

namespace acu {
namespace {

constexpr int SIDE = 32;      // of a tile
constexpr int THREADS = 256;  // each moves SIDE * SIDE / THREADS numbers

template <class From, class To>
__global__ void transpose_kernel(const From* from, To* to, int64_t inputs, int64_t outputs) {
  __shared__ float tile[SIDE][SIDE + 1];  // + 1: columns lie in different banks
  const int column = threadIdx.x % SIDE;
  const int64_t input = static_cast<int64_t>(blockIdx.y) * SIDE, output = static_cast<int64_t>(blockIdx.x) * SIDE;
  for (int row = threadIdx.x / SIDE; row < SIDE; row += THREADS / SIDE) {
    const bool exists = input + row < inputs && output + column < outputs;
    tile[row][column] = exists ? widen(from[(input + row) * outputs + output + column]) : 0.0f;
  }
  __syncthreads();
  for (int row = threadIdx.x / SIDE; row < SIDE; row += THREADS / SIDE) {
    const bool exists = output + row < outputs && input + column < inputs;
    if (exists) put(to + (output + row) * inputs + input + column, tile[column][row]);
  }
}

template <class From, class To>
__global__ void copy_kernel(const From* from, To* to, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i < count) put(to + i, widen(from[i]));
}

template <class From, class To>
void pack(const void* from, void* to, int64_t inputs, int64_t outputs, cudaStream_t stream) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  const unsigned columns = static_cast<unsigned>(ceil_divide(outputs, inputs == 1 ? THREADS : SIDE));
  if (inputs == 1) return launch(copy_kernel<From, To>, dim3(columns), THREADS, 0, stream, source, target, outputs);
  const dim3 grid(columns, static_cast<unsigned>(ceil_divide(inputs, SIDE)));
  launch(transpose_kernel<From, To>, grid, THREADS, 0, stream, source, target, inputs, outputs);
}

}  // namespace

void pack_transposed(const void* from, bool from_narrow, void* to, bool to_narrow, int64_t inputs, int64_t outputs,
                     cudaStream_t stream) {
  const auto packer = from_narrow ? (to_narrow ? pack<Bf16, Bf16> : pack<Bf16, float>)
                                  : (to_narrow ? pack<float, Bf16> : pack<float, float>);
  packer(from, to, inputs, outputs, stream);
}

}  // namespace acu
