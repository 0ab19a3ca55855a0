// Starts a kernel: on the device, or on the host when csrc/cuda/emulated stands in for it.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

namespace acu {

#if defined(__CUDACC__)
extern __shared__ double dynamic_memory[];
__device__ inline double* dynamic_shared() { return dynamic_memory; }
#else
inline double* dynamic_shared() { return emulated::dynamic_shared(); }
#endif

// shared: bytes that dynamic_shared() points to. A grid without blocks does nothing.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, cudaStream_t stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  kernel<<<grid, threads, shared, stream>>>(arguments...);
#else
  (void)stream;
  emulated::submit([=] { emulated::run(grid, threads, shared, [&] { kernel(arguments...); }); });
#endif
}

}  // namespace acu
