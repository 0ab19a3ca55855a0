// The passes of sampler.h, compiled once per instruction set (AC_ISA). The compiler's own vector types stand for
// whatever registers there are: eight lanes everywhere, no fused operations, so that every set gives the same bits.
// No templates of the standard library here: the linker would keep one copy, perhaps with the wrong instructions.
#include "sampler.h"

#include <string.h>

#define AC_JOIN_(a, b) a##b
#define AC_JOIN(a, b) AC_JOIN_(a, b)

namespace ac {
namespace {

constexpr int LANES = 8;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float HalfFloats __attribute__((vector_size(2 * LANES)));
typedef double HalfDoubles __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

#define AC_INLINE_MEMBER inline __attribute__((always_inline))
#define AC_INLINE static inline __attribute__((always_inline))

AC_INLINE Floats load(const float* from) {
  Floats x;
  memcpy(&x, from, sizeof(x));
  return x;
}

AC_INLINE void store(float* to, Floats x) { memcpy(to, &x, sizeof(x)); }

AC_INLINE Floats spread(float x) { return x - Floats{}; }

// Where mask is all ones a, where it is 0 b.
AC_INLINE Floats choose(Ints mask, Floats a, Floats b) { return (Floats)(((Ints)a & mask) | ((Ints)b & ~mask)); }

// exp(x) for x <= 0, down to the smallest positive float and then 0; within 2 units in the last place.
// exp(x) = 2^n exp(r) with n whole and |r| <= log(2) / 2. log(2) is cut in two so that n times the first part is exact.
AC_INLINE Floats exp_not_positive(Floats x) {
  constexpr float LOWEST = -104.0f, LOG2_E = 1.44269504f, LOG2_HIGH = 0.693359375f, LOG2_LOW = -2.12194440e-4f;
  constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  const Ints vanishes = (Ints)(x < LOWEST);
  const Floats bounded = choose(vanishes, spread(LOWEST), x);
  const Floats n = (bounded * LOG2_E + ROUNDER) - ROUNDER;
  const Floats r = (bounded - n * LOG2_HIGH) - n * LOG2_LOW;
  // Taylor's series in Horner's form; the last term left out is below 2e-8 of the result.
  Floats tail = spread(1.0f / 5040.0f);
  tail = tail * r + 1.0f / 720.0f;
  tail = tail * r + 1.0f / 120.0f;
  tail = tail * r + 1.0f / 24.0f;
  tail = tail * r + 1.0f / 6.0f;
  tail = tail * r + 0.5f;
  const Floats power = (tail * (r * r) + r) + 1.0f;
  // 2^n in two factors: n reaches -150, and one float has no exponent below -126.
  const Ints exponent = __builtin_convertvector(n, Ints), half = exponent >> 1;
  const Floats first = (Floats)((half + 127) << 23), second = (Floats)((exponent - half + 127) << 23);
  return choose(~vanishes, power * first * second, Floats{});
}

// A sum in double precision for each lane. In two halves: where registers are shorter than eight doubles, compilers move
// a vector of eight through memory for every addition.
struct Sum {
  HalfDoubles low, high;

  AC_INLINE_MEMBER void add(Floats x) {
    HalfFloats first, second;
    memcpy(&first, &x, sizeof(first));
    memcpy(&second, reinterpret_cast<const char*>(&x) + sizeof(first), sizeof(second));
    low += __builtin_convertvector(first, HalfDoubles);
    high += __builtin_convertvector(second, HalfDoubles);
  }
  // Lanes are added in a fixed tree.
  AC_INLINE_MEMBER double total() const {
    const HalfDoubles x = low + high;
    return (x[0] + x[2]) + (x[1] + x[3]);
  }
};

float highest(const float* logits, int vocab) {
  const int whole = vocab / LANES * LANES;
  float result = -__builtin_inff();
  Floats tops = spread(result);
  Ints damaged = {};
  for (int i = 0; i < whole; i += LANES) {
    const Floats x = load(logits + i);
    damaged |= (Ints)(x != x);
    tops = choose((Ints)(x > tops), x, tops);
  }
  bool is_damaged = false;
  for (int lane = 0; lane < LANES; ++lane) {
    is_damaged |= damaged[lane] != 0;
    if (tops[lane] > result) result = tops[lane];
  }
  for (int i = whole; i < vocab; ++i) {
    is_damaged |= logits[i] != logits[i];
    if (logits[i] > result) result = logits[i];
  }
  return is_damaged ? __builtin_nanf("") : result;
}

int first_equal(const float* logits, int vocab, float divisor, float scaled) {
  int i = 0;
  for (; i + BLOCK <= vocab; i += BLOCK) {
    Ints found = {};
    for (int j = i; j < i + BLOCK; j += LANES) found |= (Ints)(load(logits + j) / divisor == scaled);
    bool any = false;
    for (int lane = 0; lane < LANES; ++lane) any |= found[lane] != 0;
    if (any) break;
  }
  while (logits[i] / divisor != scaled) ++i;
  return i;
}

void penalise(const float* logits, const uint8_t* seen, int vocab, float penalty, float* out) {
  int i = 0;
  for (; i + LANES <= vocab; i += LANES) {
    Bytes marks;
    memcpy(&marks, seen + i, sizeof(marks));
    const Floats x = load(logits + i);
    const Floats less_likely = choose((Ints)(x < 0.0f), x * penalty, x / penalty);
    store(out + i, choose(__builtin_convertvector(marks, Ints) != 0, less_likely, x));
  }
  for (; i < vocab; ++i) out[i] = !seen[i] ? logits[i] : logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
}

// The weights of LANES logits, of which the first `count` are in the vocabulary.
AC_INLINE Floats weights_of(const float* logits, int count, float divisor, float top) {
  Floats x = spread(-__builtin_inff());
  if (count >= LANES) {
    x = load(logits);
  } else if (count > 0) {
    memcpy(&x, logits, sizeof(float) * count);
  }
  return exp_not_positive(x / divisor - top);
}

void add_up(const float* logits, int vocab, float divisor, float top, double* sums) {
  for (int start = 0; start < vocab; start += BLOCK) {
    Sum sum = {};
    const int end = start + BLOCK < vocab ? start + BLOCK : vocab;
    for (int i = start; i < end; i += LANES) {
      sum.add(weights_of(logits + i, vocab - i, divisor, top));
    }
    sums[start / BLOCK] = sum.total();
  }
}

void weigh(const float* logits, int vocab, float divisor, float top, float* weights, float* tops, double* sums) {
  for (int start = 0; start < vocab; start += BLOCK) {
    Sum sum = {};
    Floats largest = {};
    for (int i = start; i < start + BLOCK; i += LANES) {
      const Floats weight = weights_of(logits + i, vocab - i, divisor, top);
      store(weights + i, weight);
      largest = choose((Ints)(weight > largest), weight, largest);
      sum.add(weight);
    }
    float most = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) {
      if (largest[lane] > most) most = largest[lane];
    }
    tops[start / BLOCK] = most;
    sums[start / BLOCK] = sum.total();
  }
}

void drop_below(float* weights, int padded, float bound, double* sums) {
  for (int start = 0; start < padded; start += BLOCK) {
    Sum sum = {};
    for (int i = start; i < start + BLOCK; i += LANES) {
      const Floats weight = load(weights + i), kept = choose((Ints)(weight >= bound), weight, Floats{});
      store(weights + i, kept);
      sum.add(kept);
    }
    sums[start / BLOCK] = sum.total();
  }
}

}  // namespace

const SamplerKernels AC_JOIN(sampler_kernels_, AC_ISA) = {highest, first_equal, penalise, add_up, weigh, drop_below};

}  // namespace ac
