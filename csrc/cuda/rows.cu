// Embedding, residual + RMSNorm, SwiGLU.
#include "rows.h"

#include "launch.h"
#include "warp.h"

namespace acu {
namespace {

constexpr int THREADS = 256;

template <class T>
__global__ void embed_kernel(Embedding embedding, const int32_t* tokens, float* residual) {
  const int64_t row = blockIdx.x, width = embedding.hidden;
  const int64_t token = static_cast<int64_t>(tokens[row]) - embedding.first_token;
  const bool is_here = token >= 0 && token < embedding.vocab;
  const T* from = static_cast<const T*>(embedding.table) + (is_here ? token : 0) * width;
  for (int i = threadIdx.x; i < width; i += THREADS) residual[row * width + i] = is_here ? widen(from[i]) : 0.0f;
}

__global__ void __launch_bounds__(THREADS) normalise_kernel(Normalisation job) {
  const int64_t row = job.picked ? job.picked[blockIdx.x] : blockIdx.x, width = job.width;
  float* residual = job.residual + row * width;
  const float* partial = job.partial ? job.partial + row * width : nullptr;
  const auto summed = [&](int i) {
    if (!partial) return residual[i];
    return residual[i] + (job.bias ? partial[i] + job.bias[i] : partial[i]);
  };
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += THREADS) {
    const float x = summed(i);
    squares = __fmaf_rn(x, x, squares);
  }
  const float scale = 1.0f / sqrtf(over_block(squares, Sum()) / static_cast<float>(width) + job.eps);
  // A thread reads and writes the same places in both passes.
  for (int i = threadIdx.x; i < width; i += THREADS) {
    const float x = summed(i);
    job.output.write(blockIdx.x * width + i, x * scale * job.weight[i]);
    if (job.keeps_sum) residual[i] = x;
  }
}

__global__ void gate_kernel(const float* projected, const float* bias, Activations output, int64_t count, int inner) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (at >= count) return;
  const int64_t row = at / inner, i = at % inner;
  float opening = projected[row * 2 * inner + i], up = projected[row * 2 * inner + inner + i];
  if (bias) opening += bias[i], up += bias[inner + i];
  output.write(at, opening / (1.0f + expf(-opening)) * up);
}

}  // namespace

void embed(const Embedding& embedding, const int32_t* tokens, int rows, float* residual, cudaStream_t stream) {
  const auto kernel = embedding.is_narrow ? embed_kernel<Bf16> : embed_kernel<float>;
  launch(kernel, dim3(rows), THREADS, 0, stream, embedding, tokens, residual);
}

void add_normalise(const Normalisation& job, int rows, cudaStream_t stream) {
  launch(normalise_kernel, dim3(rows), THREADS, 0, stream, job);
}

void gate(const float* projected, const float* bias, Activations output, int rows, int inner, cudaStream_t stream) {
  const int64_t count = static_cast<int64_t>(rows) * inner;
  const dim3 grid(static_cast<unsigned>(ceil_divide(count, THREADS)));
  launch(gate_kernel, grid, THREADS, 0, stream, projected, bias, output, count, inner);
}

}  // namespace acu
