// Products by cuBLASLt. It counts columns first: outputs^T [out, rows] = (weights^T)^T [out, in] x inputs^T [in, rows].
#include "matmul.h"

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "alignment_cuda.h"
#include "errors.h"

namespace acu {
namespace {

constexpr size_t WORKSPACE_BYTES = 32 << 20;
constexpr int TYPICAL_ROWS = 64;  // for which an algorithm is chosen when one serves any number of rows

// A product of one shape: descriptor and layouts; what was made is destroyed.
class Shape {
 public:
  Shape(bool is_narrow, int rows, int in, int out) {
    const cudaDataType_t type = is_narrow ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    // CUBLAS_COMPUTE_32F, not its TF32 variant: f32 inputs are multiplied as they are.
    note(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    if (is_good()) {
      note(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
    }
    note(cublasLtMatrixLayoutCreate(&weights, type, in, out, in));
    note(cublasLtMatrixLayoutCreate(&inputs, type, in, rows, in));
    note(cublasLtMatrixLayoutCreate(&outputs, CUDA_R_32F, out, rows, out));
  }
  Shape(const Shape&) = delete;
  ~Shape() {
    if (outputs) cublasLtMatrixLayoutDestroy(outputs);
    if (inputs) cublasLtMatrixLayoutDestroy(inputs);
    if (weights) cublasLtMatrixLayoutDestroy(weights);
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
  bool is_good() const { return status_ == CUBLAS_STATUS_SUCCESS; }

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, inputs = nullptr, outputs = nullptr;

 private:
  void note(cublasStatus_t status) {
    if (is_good()) status_ = status;
  }
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
};

int32_t fail_product(const char* what, const Product& product, int status) {
  return fail(ACU_DEVICE_FAILED, std::string("cuBLASLt ") + what + " for " + std::to_string(product.rows) + " x " +
                                     std::to_string(product.in) + " x " + std::to_string(product.out) + ": status " +
                                     std::to_string(status));
}

class LtMultiplier : public Multiplier {
 public:
  LtMultiplier(bool is_narrow, bool row_invariant) : is_narrow_(is_narrow), row_invariant_(row_invariant) {}
  ~LtMultiplier() override {
    if (handle_) cublasLtDestroy(handle_);
    if (workspace_) cudaFree(workspace_);
  }

  bool prepare() {
    const int status = cublasLtCreate(&handle_);
    if (status != CUBLAS_STATUS_SUCCESS) {
      fail(ACU_DEVICE_FAILED, "cublasLtCreate: status " + std::to_string(status));
      return false;
    }
    if (cudaMalloc(&workspace_, WORKSPACE_BYTES) == cudaSuccess) return true;
    cudaGetLastError();  // forget it
    fail(AC_NO_MEMORY, "no device memory for the workspace of cuBLASLt");
    return false;
  }

  int64_t bytes() const override { return WORKSPACE_BYTES; }

  int32_t multiply(const Product& product, cudaStream_t stream) override {
    if (product.rows == 0) return AC_OK;
    const cublasLtMatmulAlgo_t* algorithm = nullptr;
    if (const int32_t code = find_algorithm(product, &algorithm)) return code;
    const Shape shape(is_narrow_, product.rows, product.in, product.out);
    if (!shape.is_good()) return fail_product("has no descriptors", product, 0);
    const float one = 1.0f, zero = 0.0f;
    const cublasStatus_t status = cublasLtMatmul(
        handle_, shape.operation, &one, product.weights, shape.weights, product.inputs, shape.inputs, &zero,
        product.outputs, shape.outputs, product.outputs, shape.outputs, algorithm, workspace_, WORKSPACE_BYTES, stream);
    return status == CUBLAS_STATUS_SUCCESS ? AC_OK : fail_product("refused the product", product, status);
  }

 private:
  // Chosen once for each shape and kept: choosing needs the host only, but takes long.
  int32_t find_algorithm(const Product& product, const cublasLtMatmulAlgo_t** algorithm) {
    const int rows = row_invariant_ ? TYPICAL_ROWS : product.rows;
    const auto key = std::make_tuple(rows, product.in, product.out);
    const auto known = algorithms_.find(key);
    if (known != algorithms_.end()) {
      *algorithm = &known->second;
      return AC_OK;
    }
    const Shape shape(is_narrow_, rows, product.in, product.out);
    cublasLtMatmulPreference_t preference = nullptr;
    if (!shape.is_good() || cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) {
      return fail_product("has no descriptors", product, 0);
    }
    limit(preference);
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, shape.operation, shape.weights, shape.inputs, shape.outputs,
                                       shape.outputs, preference, 1, &result, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) return fail_product("has no algorithm", product, status);
    *algorithm = &(algorithms_[key] = result.algo);
    return AC_OK;
  }

  void limit(cublasLtMatmulPreference_t preference) const {
    const size_t bytes = WORKSPACE_BYTES;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes));
    if (!row_invariant_) return;
    const uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                         sizeof(no_split));
  }

  const bool is_narrow_, row_invariant_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<std::tuple<int, int, int>, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

std::unique_ptr<Multiplier> Multiplier::create(bool is_narrow, bool row_invariant) {
  auto made = std::make_unique<LtMultiplier>(is_narrow, row_invariant);
  if (!made->prepare()) return nullptr;
  return made;
}

}  // namespace acu
