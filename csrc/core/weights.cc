// Packing of parameters into the layouts of kernels.h.
#include <cmath>
#include <cstring>
#include <limits>

#include "bfloat16.h"
#include "errors.h"
#include "model.h"

namespace ac {
namespace {

constexpr int INPUT_BLOCK = 16;  // inputs packed before the next panel: long enough writes, few enough read streams
constexpr int MAX_PANEL = 64;  // outputs of a panel at most

AC_INLINE float wide_of(float x) { return x; }
AC_INLINE float wide_of(uint16_t x) { return widen(x); }

// A caller's matrix; element (input, output) is at data[input * input_step + output * output_step].
template <class T>
struct Source {
  const T* data;
  int64_t inputs, outputs, input_step, output_step;
  float at(int64_t input, int64_t output) const {
    return wide_of(data[input * input_step + output * output_step]);
  }
};

// One stretch of a panel: packed outputs lane .. lane + count are the source's outputs from `output` on.
struct Stretch {
  int panel, lane, count;
  int64_t output;
};

Stretch find_stretch(const Parameter& to, int panel_size, int index, int64_t outputs) {
  const int64_t first_panel = to.first_output / panel_size, panel = first_panel + index;
  const int64_t begin = panel * panel_size > to.first_output ? panel * panel_size : to.first_output;
  const int64_t stop = to.first_output + outputs;
  const int64_t end = (panel + 1) * panel_size < stop ? (panel + 1) * panel_size : stop;
  const int64_t place = to.pair < 0 ? panel : 2 * panel + to.pair;
  return {static_cast<int>(place), static_cast<int>(begin % panel_size), static_cast<int>(end - begin),
          begin - to.first_output};
}

int count_stretches(const Parameter& to, int panel_size, int64_t outputs) {
  return static_cast<int>((to.first_output + outputs - 1) / panel_size - to.first_output / panel_size + 1);
}

template <class T>
void pack_wide(const Source<T>& from, const Stretch& s, int panel_size, int64_t begin, int64_t end, float* panel) {
  for (int64_t input = begin; input < end; ++input) {
    float* to = panel + input * panel_size + s.lane;
    for (int i = 0; i < s.count; ++i) to[i] = from.at(input, s.output + i);
  }
}

template <class T>
void pack_narrow(const Source<T>& from, const Stretch& s, int panel_size, int64_t begin, int64_t end, uint16_t* panel) {
  for (int64_t input = begin; input < end; input += 2) {
    uint16_t* to = panel + input * panel_size + 2 * s.lane;
    for (int i = 0; i < s.count; ++i) {
      to[2 * i] = narrow(from.at(input, s.output + i));
      to[2 * i + 1] = narrow(from.at(input + 1, s.output + i));
    }
  }
}

// The scale that takes a column's largest magnitude to 127; 0 when nothing is left of it, NaN when it is not finite.
template <class T>
void find_scales(const Source<T>& from, const Stretch& s, float* scales) {
  float largest[MAX_PANEL] = {};
  uint32_t is_damaged[MAX_PANEL] = {};
  for (int64_t input = 0; input < from.inputs; ++input) {
    for (int i = 0; i < s.count; ++i) {
      const float size = std::fabs(from.at(input, s.output + i));
      largest[i] = size > largest[i] ? size : largest[i];
      is_damaged[i] |= size <= std::numeric_limits<float>::max() ? 0u : 1u;
    }
  }
  for (int i = 0; i < s.count; ++i) {
    float& scale = scales[s.lane + i];
    scale = is_damaged[i] ? std::numeric_limits<float>::quiet_NaN() : largest[i] / 127.0f;
    if (scale < std::numeric_limits<float>::min()) scale = 0.0f;  // its inverse would not be finite
  }
}

// The nearest whole number of x in -127 .. 127; of two the even one.
AC_INLINE int8_t rounded(float x) {
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: no digit is left behind the point
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return static_cast<int8_t>(bits);
}

template <class T>
void pack_bytes(const Source<T>& from, const Stretch& s, int panel_size, int64_t begin, int64_t end, int8_t* panel,
                const float* scales) {
  float inverses[MAX_PANEL];
  for (int i = 0; i < s.count; ++i) {
    const float scale = scales[s.lane + i];
    inverses[i] = scale > 0.0f ? 1.0f / scale : 0.0f;
  }
  // Bytes might be anything to the compiler, so the loop reads nothing by way of `from`.
  const int64_t step = from.output_step;
  for (int64_t input = begin; input < end; ++input) {
    const T* __restrict at = from.data + input * from.input_step + s.output * step;
    int8_t* __restrict to = panel + input * panel_size + s.lane;
    for (int i = 0; i < s.count; ++i) to[i] = rounded(wide_of(at[i * step]) * inverses[i]);
  }
}

template <class T>
void pack_stretch(const Source<T>& from, const Matrix& to, const Stretch& s, int panel_size, int64_t begin,
                  int64_t end) {
  char* panel = to.data + s.panel * to.panel_bytes;
  switch (to.type) {
    case WeightType::f32: return pack_wide(from, s, panel_size, begin, end, reinterpret_cast<float*>(panel));
    case WeightType::bf16: return pack_narrow(from, s, panel_size, begin, end, reinterpret_cast<uint16_t*>(panel));
    case WeightType::int8:
      return pack_bytes(from, s, panel_size, begin, end, reinterpret_cast<int8_t*>(panel),
                        to.scales + static_cast<int64_t>(s.panel) * panel_size);
  }
}

template <class T>
void pack_matrix(const Source<T>& from, const Parameter& to, int panel_size, int threads) {
  const int count = count_stretches(to, panel_size, from.outputs);
  if (to.matrix->type == WeightType::int8) {
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < count; ++i) {
      const Stretch s = find_stretch(to, panel_size, i, from.outputs);
      find_scales(from, s, to.matrix->scales + static_cast<int64_t>(s.panel) * panel_size);
    }
  }
  const int64_t blocks = (from.inputs + INPUT_BLOCK - 1) / INPUT_BLOCK;
#pragma omp parallel for num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * INPUT_BLOCK, end = begin + INPUT_BLOCK;
    for (int i = 0; i < count; ++i) {
      const Stretch s = find_stretch(to, panel_size, i, from.outputs);
      pack_stretch(from, *to.matrix, s, panel_size, begin, end < from.inputs ? end : from.inputs);
    }
  }
}

template <class T>
void pack_vector(const T* from, const Parameter& to, int panel_size) {
  if (to.vector) {
    for (int64_t i = 0; i < to.cols; ++i) to.vector[i] = wide_of(from[i]);
    return;
  }
  const int count = count_stretches(to, panel_size, to.cols);
  for (int index = 0; index < count; ++index) {
    const Stretch s = find_stretch(to, panel_size, index, to.cols);
    float* biases = to.matrix->biases + static_cast<int64_t>(s.panel) * panel_size + s.lane;
    for (int i = 0; i < s.count; ++i) biases[i] = wide_of(from[s.output + i]);
  }
}

template <class T>
void pack_embedding(const T* from, const AcModel& model, int threads) {
  const int64_t numbers = model.embedding_width();
#pragma omp parallel for num_threads(threads)
  for (int row = 0; row < model.config.vocab; ++row) {
    const T* source = from + row * numbers;
    float* wide = reinterpret_cast<float*>(model.embedding) + row * numbers;
    uint16_t* half = reinterpret_cast<uint16_t*>(model.embedding) + row * numbers;
    for (int64_t i = 0; i < numbers; ++i) {
      if (model.embeds_narrow()) {
        half[i] = narrow(wide_of(source[i]));
      } else {
        wide[i] = wide_of(source[i]);
      }
    }
  }
}

template <class T>
void pack(const T* data, const AcModel& model, const Parameter& to, int threads) {
  const int panel = model.kernels->panel;
  switch (to.kind) {
    case Parameter::Kind::vector: return pack_vector(data, to, panel);
    case Parameter::Kind::rows:
      for (int64_t i = 0; i < to.rows * to.cols; ++i) to.vector[i] = wide_of(data[i]);
      return;
    case Parameter::Kind::matrix:
      return pack_matrix(Source<T>{data, to.rows, to.cols, to.cols, 1}, to, panel, threads);
    case Parameter::Kind::embedding:
      pack_embedding(data, model, threads);
      if (model.config.tied) pack_matrix(Source<T>{data, to.cols, to.rows, 1, to.cols}, to, panel, threads);
  }
}

std::string shape_text(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

}  // namespace
}  // namespace ac

extern "C" {

int32_t ac_model_set_weight(AcModel* model, const char* name, const void* data, int32_t dtype, int64_t rows,
                            int64_t cols, int32_t threads) {
  const auto found = model->parameters.find(name);
  if (found == model->parameters.end()) {
    return ac::fail(AC_BAD_ARGUMENT, std::string(name) + " is no weight of the model");
  }
  ac::Parameter& to = found->second;
  if (rows != to.rows || cols != to.cols) {
    return ac::fail(AC_BAD_ARGUMENT, std::string(name) + " has shape " + ac::shape_text(rows, cols) +
                                         ", the model needs " + ac::shape_text(to.rows, to.cols));
  }
  if ((dtype != AC_F32 && dtype != AC_BF16) || threads < 1) {
    return ac::fail(AC_BAD_ARGUMENT, std::string(name) + ": dtype must be 0 (f32) or 1 (bf16) and threads at least 1");
  }
  if (dtype == AC_F32) {
    ac::pack(static_cast<const float*>(data), *model, to, threads);
  } else {
    ac::pack(static_cast<const uint16_t*>(data), *model, to, threads);
  }
  to.is_set = true;
  return AC_OK;
}

int32_t ac_model_set_rotary(AcModel* model, const float* cosines, const float* sines, int32_t positions) {
  if (positions != model->config.max_positions) {
    return ac::fail(AC_BAD_ARGUMENT, "rotary tables of " + std::to_string(positions) + " positions, the model needs " +
                                         std::to_string(model->config.max_positions));
  }
  const size_t bytes = sizeof(float) * model->angles() * model->rotary_tables();
  std::memcpy(model->cosines, cosines, bytes);
  std::memcpy(model->sines, sines, bytes);
  model->has_rotary = true;
  return AC_OK;
}

int32_t ac_model_missing(const AcModel* model, char* out, int32_t size) {
  int32_t count = 0;
  std::string names;
  const auto note = [&](const std::string& name) { names += (count++ ? ", " : "") + name; };
  for (const auto& [name, parameter] : model->parameters) {
    if (!parameter.is_set) note(name);
  }
  if (!model->has_rotary) note("rotary tables");
  if (size > 0) {
    names.resize(names.size() < static_cast<size_t>(size) ? names.size() : static_cast<size_t>(size) - 1);
    std::memcpy(out, names.c_str(), names.size() + 1);
  }
  return count;
}

}  // extern "C"
