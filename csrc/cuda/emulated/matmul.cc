// The products of matmul.h by plain loops, in the place of cuBLASLt.
#include "../matmul.h"

#include "../numbers.h"

namespace acu {
namespace {

template <class T>
void multiply_plainly(const Product& product) {
  const T* inputs = static_cast<const T*>(product.inputs);
  const T* weights = static_cast<const T*>(product.weights);
  for (int64_t row = 0; row < product.rows; ++row) {
    for (int64_t o = 0; o < product.out; ++o) {
      float sum = 0.0f;
      for (int64_t i = 0; i < product.in; ++i) {
        sum = std::fma(widen(inputs[row * product.in + i]), widen(weights[o * product.in + i]), sum);
      }
      product.outputs[row * product.out + o] = sum;
    }
  }
}

class PlainMultiplier : public Multiplier {
 public:
  explicit PlainMultiplier(bool is_narrow) : is_narrow_(is_narrow) {}
  int64_t bytes() const override { return 0; }
  int32_t multiply(const Product& product, cudaStream_t) override {
    emulated::submit([=, is_narrow = is_narrow_] {
      is_narrow ? multiply_plainly<Bf16>(product) : multiply_plainly<float>(product);
    });
    return 0;
  }

 private:
  const bool is_narrow_;
};

}  // namespace

std::unique_ptr<Multiplier> Multiplier::create(bool is_narrow, bool) {
  return std::make_unique<PlainMultiplier>(is_narrow);
}

}  // namespace acu
