// The order of work. What is captured is kept as it was submitted, and done again at every launch of the graph.
#include <cuda_runtime.h>

#include <utility>
#include <vector>

struct CapturedGraph {
  std::vector<std::function<void()>> work;
};

namespace {

CapturedGraph* captured = nullptr;  // what is being captured
bool copies_are_late = false;
size_t num_submitted = 0;
std::vector<std::function<void()>> late;

void copy_now() {
  for (const auto& copy : std::exchange(late, {})) copy();
}

}  // namespace

void emulated::submit(std::function<void()> work) {
  if (captured) {
    captured->work.push_back(std::move(work));
  } else {
    copy_now();
    work();
  }
}

void emulated::submit_copy(std::function<void()> work) {
  ++num_submitted;
  if (!captured && copies_are_late) {
    late.push_back(std::move(work));
  } else {
    submit(std::move(work));
  }
}

size_t emulated::copies_submitted() { return num_submitted; }
size_t emulated::copies_done() { return num_submitted - late.size(); }

// Whether copies from the host read their source only when the next work is done.
extern "C" __attribute__((visibility("default"))) void acu_emulated_late_copies(int are_late) {
  copy_now();
  copies_are_late = are_late != 0;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  if (captured) return cudaErrorStreamCaptureUnsupported;
  copy_now();
  return cudaSuccess;
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
