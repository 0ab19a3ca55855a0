// Copies between host and device. What goes to the device is first copied to pinned memory: a driver may read pageable
// memory later than the call returns, where the device has page tables of the host (ATS).
#include <cuda_runtime.h>

#include <cstring>
#include <list>
#include <map>
#include <mutex>

#include "alignment_cuda.h"
#include "errors.h"

namespace acu {
namespace {

constexpr int64_t MOST_STAGED = 4 << 20;  // bytes; a longer copy, which no step makes, is waited for

// Pinned memory, in use until the copy that was put on a stream before `copied`.
struct Stage {
  void* memory = nullptr;
  int64_t bytes = 0;
  cudaEvent_t copied = nullptr;
};

std::mutex stages_lock;
std::map<int, std::list<Stage>>& stages = *new std::map<int, std::list<Stage>>;  // by device; never freed

bool is_free(const Stage& stage) {
  if (cudaEventQuery(stage.copied) == cudaSuccess) return true;
  cudaGetLastError();  // "not ready" is remembered as an error is
  return false;
}

// A stage with room for `bytes` that no copy uses; null: see acu_last_error.
Stage* find_stage(int64_t bytes) {
  int device = 0;
  if (check(cudaGetDevice(&device), "acu_write")) return nullptr;
  for (Stage& stage : stages[device]) {
    if (stage.bytes >= bytes && is_free(stage)) return &stage;
  }
  Stage made;
  made.bytes = 4096;
  while (made.bytes < bytes) made.bytes *= 2;
  if (check(cudaEventCreateWithFlags(&made.copied, cudaEventDisableTiming), "acu_write")) return nullptr;
  if (check(cudaMallocHost(&made.memory, static_cast<size_t>(made.bytes)), "acu_write")) {
    cudaEventDestroy(made.copied);
    return nullptr;
  }
  return &stages[device].emplace_back(made);
}

int32_t copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes <= 0) return AC_OK;
  return check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream), "copy");
}

int32_t write_staged(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  const std::lock_guard<std::mutex> only_one(stages_lock);
  Stage* stage = find_stage(bytes);
  if (!stage) return ACU_DEVICE_FAILED;
  std::memcpy(stage->memory, from, static_cast<size_t>(bytes));
  if (const int32_t code = copy(to, stage->memory, bytes, cudaMemcpyHostToDevice, stream)) return code;
  return check(cudaEventRecord(stage->copied, stream), "acu_write");
}

}  // namespace
}  // namespace acu

extern "C" {

int32_t acu_use_device(int32_t index) { return acu::check(cudaSetDevice(index), "acu_use_device"); }

int32_t acu_write(void* to, const void* from, int64_t bytes, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (bytes <= acu::MOST_STAGED) return acu::write_staged(to, from, bytes, on);
  if (const int32_t code = acu::copy(to, from, bytes, cudaMemcpyHostToDevice, on)) return code;
  return acu::check(cudaStreamSynchronize(on), "acu_write");
}

int32_t acu_move(void* to, const void* from, int64_t bytes, void* stream) {
  return acu::copy(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
}

int32_t acu_read(void* to, const void* from, int64_t bytes, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (const int32_t code = acu::copy(to, from, bytes, cudaMemcpyDeviceToHost, on)) return code;
  return acu::check(cudaStreamSynchronize(on), "acu_read");
}

}  // extern "C"
