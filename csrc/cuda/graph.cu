// Graphs of captured work.
#include <cuda_runtime.h>

#include <memory>

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

extern "C" {

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
