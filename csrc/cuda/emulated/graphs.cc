// Work that is captured is kept as it was submitted, and done again at every launch of the graph.
#include <cuda_runtime.h>

#include <utility>
#include <vector>

struct CapturedGraph {
  std::vector<std::function<void()>> work;
};

namespace {

CapturedGraph* captured = nullptr;  // what is being captured

}  // namespace

void emulated::submit(std::function<void()> work) {
  if (captured) {
    captured->work.push_back(std::move(work));
  } else {
    work();
  }
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
  if (captured) return cudaErrorStreamCaptureUnsupported;
  captured = new CapturedGraph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(captured, nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* work, cudaGraph_t graph, unsigned long long) {
  *work = new CapturedGraph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& work : graph->work) emulated::submit(work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t work) { return cudaGraphDestroy(work); }
