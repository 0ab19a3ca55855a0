// Stands in for CUDA's header so that a C++ compiler builds the kernels for the host, in tests only. Every thread of a
// block is a fiber with a stack of its own; blocks run one after another. "Device" memory is host memory.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulated {

struct Place {
  dim3 thread{0}, block{0}, threads{0}, grid{0};
};
extern Place place;  // of the fiber that runs

void run(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel);
void submit(std::function<void()> work);  // do it, or keep it while a graph is captured
// Copies from pageable memory: at once, or, as on a machine with ATS, when the next work is done.
void submit_copy(std::function<void()> work);
size_t copies_done();
size_t copies_submitted();
double* dynamic_shared();
void wait_for_block();
void wait_for_warp();
void* exchange_slot(int lane);  // 8 bytes of a lane of the running warp

}  // namespace emulated

#define threadIdx emulated::place.thread
#define blockIdx emulated::place.block
#define blockDim emulated::place.threads
#define gridDim emulated::place.grid

inline void __syncthreads() { emulated::wait_for_block(); }
inline void __syncwarp() { emulated::wait_for_warp(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8, "");
  const int lane = threadIdx.x % 32;
  std::memcpy(emulated::exchange_slot(lane), &value, sizeof(T));
  emulated::wait_for_warp();
  T other;
  std::memcpy(&other, emulated::exchange_slot(lane ^ mask), sizeof(T));
  emulated::wait_for_warp();
  return other;
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int atomicMin(int* at, int x) {
  const int before = *at;
  if (x < before) *at = x;
  return before;
}

inline unsigned atomicMax(unsigned* at, unsigned x) {
  const unsigned before = *at;
  if (x > before) *at = x;
  return before;
}

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600, cudaErrorStreamCaptureUnsupported = 900 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };

inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <class T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  *memory = static_cast<T*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  if (!*memory) return cudaErrorMemoryAllocation;
  std::memset(*memory, 0xff, bytes);  // NaN in every format
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const auto start = kind == cudaMemcpyHostToDevice ? emulated::submit_copy : emulated::submit;
  start([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

typedef size_t* cudaEvent_t;  // how many copies had been submitted when it was recorded
enum { cudaEventDisableTiming = 2 };

inline cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new size_t(0);
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = emulated::copies_submitted();
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  return emulated::copies_done() >= *event ? cudaSuccess : cudaErrorNotReady;
}

inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                     size_t height, cudaMemcpyKind, cudaStream_t) {
  emulated::submit([=] {
    for (size_t i = 0; i < height; ++i) {
      std::memmove(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
    }
  });
  return cudaSuccess;
}

struct CapturedGraph;
typedef CapturedGraph* cudaGraph_t;
typedef CapturedGraph* cudaGraphExec_t;
enum { cudaStreamNonBlocking = 1, cudaStreamCaptureModeThreadLocal = 1 };

cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* work, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t work, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t work);

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char only;
  *stream = &only;
  return cudaSuccess;
}
