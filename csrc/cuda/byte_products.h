// int8 weights: packing with a scale for each output, and their products.
#pragma once
#include "numbers.h"

namespace acu {

constexpr int BYTE_SLICE = 64;  // inputs that a warp multiplies at once; rows of weights are padded to whole slices

__host__ __device__ inline int64_t byte_pitch(int64_t inputs) {
  return (inputs + BYTE_SLICE - 1) / BYTE_SLICE * BYTE_SLICE;
}

// Whole numbers [outputs][byte_pitch(inputs)], zero beyond the inputs, each to be multiplied by the scale of its output.
struct ByteMatrix {
  int8_t* numbers;
  float* scales;
};

// from: [inputs, outputs], or [outputs, inputs] where outputs_first. A scale takes the largest magnitude of its output to
// 127 as in csrc/core/weights.cc: NaN when a weight is not finite, 0 when its inverse would not be.
void pack_bytes(const void* from, bool from_narrow, bool outputs_first, const ByteMatrix& to, int64_t inputs,
                int64_t outputs, cudaStream_t stream);

// outputs [rows, out] = inputs [rows, in] x weights. Inputs are bf16 or f32; the latter are multiplied as they are, in
// three bf16 parts. A row has the same bits whatever the number of rows.
struct ByteProduct {
  Activations inputs;
  ByteMatrix weights;
  float* outputs;
  int rows, in, out;
};
void multiply_bytes(const ByteProduct& product, cudaStream_t stream);

}  // namespace acu
