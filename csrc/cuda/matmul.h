// Products with the model's matrices.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

namespace acu {

// inputs [rows, in] and weights [out, in] are both f32 or both bf16, outputs [rows, out] f32; all row-major.
struct Product {
  const void *inputs, *weights;
  float* outputs;
  int rows, in, out;
};

// One cuBLASLt handle with its workspace, for one stream at a time.
class Multiplier {
 public:
  // row_invariant: one algorithm for a matrix, whatever the number of rows, that never splits a sum.
  static std::unique_ptr<Multiplier> create(bool is_narrow, bool row_invariant);  // null: see acu_last_error
  virtual ~Multiplier() = default;
  virtual int32_t multiply(const Product& product, cudaStream_t stream) = 0;  // 0 or an error code
  virtual int64_t bytes() const = 0;
};

}  // namespace acu
