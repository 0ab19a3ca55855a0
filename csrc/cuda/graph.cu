// Copies between host and device, and graphs of captured work.
#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "alignment_cuda.h"
#include "errors.h"

struct AcuGraph {
  cudaStream_t stream = nullptr;  // the capture's own: nothing ever runs on it
  cudaGraphExec_t work = nullptr;

  ~AcuGraph() {
    if (work) cudaGraphExecDestroy(work);
    if (stream) cudaStreamDestroy(stream);
  }
};

namespace acu {
namespace {

int32_t copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, void* stream) {
  if (bytes > 0) cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, static_cast<cudaStream_t>(stream));
  return check_device("copy");
}

int32_t check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return AC_OK;
  cudaGetLastError();  // forget it
  return fail(ACU_DEVICE_FAILED, std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace
}  // namespace acu

extern "C" {

int32_t acu_use_device(int32_t index) { return acu::check(cudaSetDevice(index), "acu_use_device"); }

int32_t acu_write(void* to, const void* from, int64_t bytes, void* stream) {
  return acu::copy(to, from, bytes, cudaMemcpyHostToDevice, stream);
}

int32_t acu_move(void* to, const void* from, int64_t bytes, void* stream) {
  return acu::copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

int32_t acu_read(void* to, const void* from, int64_t bytes, void* stream) {
  if (const int32_t code = acu::copy(to, from, bytes, cudaMemcpyDeviceToHost, stream)) return code;
  return acu::check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "acu_read");
}

AcuGraph* acu_graph_begin(void** stream) {
  auto made = std::make_unique<AcuGraph>();
  if (acu::check(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking), "acu_graph_begin")) return nullptr;
  if (acu::check(cudaStreamBeginCapture(made->stream, cudaStreamCaptureModeThreadLocal), "acu_graph_begin")) {
    return nullptr;
  }
  *stream = made->stream;
  return made.release();
}

int32_t acu_graph_end(AcuGraph* graph) {
  cudaGraph_t captured = nullptr;
  if (const int32_t code = acu::check(cudaStreamEndCapture(graph->stream, &captured), "acu_graph_end")) return code;
  const cudaError_t error = cudaGraphInstantiateWithFlags(&graph->work, captured, 0);
  cudaGraphDestroy(captured);
  return acu::check(error, "acu_graph_end");
}

int32_t acu_graph_launch(AcuGraph* graph, void* stream) {
  return acu::check(cudaGraphLaunch(graph->work, static_cast<cudaStream_t>(stream)), "acu_graph_launch");
}

void acu_graph_destroy(AcuGraph* graph) { delete graph; }

}  // extern "C"
