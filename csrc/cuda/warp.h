// What the threads of a warp or a block find out together. Every thread gets the same bits, in an order that depends on
// nothing but the size of the block.
#pragma once
#include <cuda_runtime.h>

namespace acu {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};

struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ int operator()(int a, int b) const { return a > b ? a : b; }
};

struct Smallest {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// Over groups of `width` neighbouring lanes; all lanes of the warp must call.
template <class T, class Operation>
__device__ inline T over_lanes(T x, Operation operation, int width = WARP) {
  for (int step = width / 2; step > 0; step /= 2) x = operation(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// Over the block; all its threads must call, and their number is a multiple of WARP.
template <class T, class Operation>
__device__ inline T over_block(T x, Operation operation) {
  __shared__ T of_warp[WARP];
  x = over_lanes(x, operation);
  __syncthreads();  // an earlier result may still be read
  if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
  __syncthreads();
  T all = of_warp[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / WARP; ++warp) all = operation(all, of_warp[warp]);
  return all;
}

}  // namespace acu
