// The update of training: sums of squared gradients, and AdamW with clipping. Work is cut by position only, so no result
// depends on the number of threads.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <vector>

#include "alignment_training.h"
#include "errors.h"
#include "training_kernels.h"

namespace ac {
namespace {

constexpr int64_t TOGETHER = 16384;  // numbers: a stretch's gradient, weight and moments fit into the second-level cache

constexpr int64_t STRIPE = 128;      // columns of a matrix that one thread adds to

struct Stretch {
  int32_t tensor;
  int64_t begin, count;
};

template <class Tensor>
std::vector<Stretch> cut_tensors(int32_t num_tensors, const Tensor* tensors) {
  std::vector<Stretch> stretches;
  for (int32_t tensor = 0; tensor < num_tensors; ++tensor) {
    const int64_t count = tensors[tensor].count;
    for (int64_t begin = 0; begin < count; begin += TOGETHER) {
      stretches.push_back({tensor, begin, std::min(TOGETHER, count - begin)});
    }
  }
  return stretches;
}

template <class Work>
void share(const std::vector<Stretch>& stretches, int32_t threads, const Work& work) {
  const int64_t count = static_cast<int64_t>(stretches.size());
  const int wanted = threads > 0 ? threads : omp_get_max_threads();
  const int team = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(wanted, count)));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (int64_t i = 0; i < count; ++i) work(i, stretches[i]);
}

// By the rules of Paddle's AdamW in float32, with the powers of the betas before this step.
AdamFactors factors_of(const AcAdam& adam, const AcAdamTensor& tensor) {
  AdamFactors found = {};
  const float uncorrected = std::sqrt(1.0f - *tensor.power2);
  found.gradient_scale = adam.gradient_scale;
  found.beta1 = adam.beta1;
  found.beta2 = adam.beta2;
  found.rest1 = 1.0f - adam.beta1;
  found.rest2 = 1.0f - adam.beta2;
  found.decay = tensor.decays ? adam.learning_rate * adam.weight_decay : 0.0f;
  found.step = adam.learning_rate * (uncorrected / (1.0f - *tensor.power1));
  found.epsilon = adam.epsilon * uncorrected;
  return found;
}

int32_t no_memory() { return fail(AC_NO_MEMORY, "update: no memory for its list of work"); }

}  // namespace
}  // namespace ac

extern "C" {

int32_t ac_sum_of_squares(int32_t num_tensors, const AcNumbers* tensors, double* sums, int32_t threads) {
  try {
    const std::vector<ac::Stretch> stretches = ac::cut_tensors(num_tensors, tensors);
    std::vector<double> parts(stretches.size());
    const auto squares = ac::training_kernels_here().squares;
    ac::share(stretches, threads, [&](int64_t i, const ac::Stretch& at) {
      parts[i] = squares(tensors[at.tensor].numbers + at.begin, at.count);
    });
    std::fill(sums, sums + num_tensors, 0.0);
    for (size_t i = 0; i < stretches.size(); ++i) sums[stretches[i].tensor] += parts[i];
  } catch (const std::bad_alloc&) {
    return ac::no_memory();
  }
  return AC_OK;
}

int32_t ac_add_rows(int64_t count, int64_t width, const int64_t* ids, const float* added, float* total,
                    int64_t height, int32_t threads) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= height) {
      return ac::fail(AC_BAD_ARGUMENT, "add_rows: row " + std::to_string(ids[i]) + " is not in 0 .. " +
                                           std::to_string(height - 1));
    }
  }
  const int wanted = threads > 0 ? threads : omp_get_max_threads();
  const int64_t stripes = (width + ac::STRIPE - 1) / ac::STRIPE;
  const int team = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(wanted, stripes)));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (int64_t stripe = 0; stripe < stripes; ++stripe) {
    const int64_t first = stripe * ac::STRIPE, end = std::min(width, first + ac::STRIPE);
    for (int64_t i = 0; i < count; ++i) {
      float* sum = total + ids[i] * width;
      const float* one = added + i * width;
      for (int64_t at = first; at < end; ++at) sum[at] += one[at];
    }
  }
  return AC_OK;
}

int32_t ac_adamw(const AcAdam* adam, int32_t num_tensors, const AcAdamTensor* tensors, int32_t threads) {
  if (adam->struct_bytes != static_cast<int32_t>(sizeof(AcAdam)) ||
      adam->tensor_bytes != static_cast<int32_t>(sizeof(AcAdamTensor))) {
    return ac::fail(AC_BAD_ARGUMENT, "adamw: AcAdam is of another version");
  }
  try {
    const std::vector<ac::Stretch> stretches = ac::cut_tensors(num_tensors, tensors);
    std::vector<ac::AdamFactors> factors;
    for (int32_t i = 0; i < num_tensors; ++i) factors.push_back(ac::factors_of(*adam, tensors[i]));
    const auto update = ac::training_kernels_here().adamw;
    ac::share(stretches, threads, [&](int64_t, const ac::Stretch& at) {
      const AcAdamTensor& t = tensors[at.tensor];
      update(factors[at.tensor], {t.gradient + at.begin, t.weight + at.begin, t.moment1 + at.begin,
                                  t.moment2 + at.begin, at.count});
    });
  } catch (const std::bad_alloc&) {
    return ac::no_memory();
  }
  for (int32_t i = 0; i < num_tensors; ++i) {
    *tensors[i].power1 *= adam->beta1;
    *tensors[i].power2 *= adam->beta2;
  }
  return AC_OK;
}

}  // extern "C"
