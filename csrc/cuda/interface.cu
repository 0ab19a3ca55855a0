// The C interface of a model: creation, weights, blocks.
#include <new>

#include "errors.h"
#include "model.h"
#include "rows.h"

namespace acu {
namespace {

thread_local std::string last_error;

struct Limit {
  const char* name;
  int32_t value, low, high;
};

// What is wrong with a configuration, "" when nothing is.
std::string find_problem(const AcConfig& c, const AcuLimits& l) {
  constexpr int32_t ANY = 1 << 30, GRID = 65535;  // GRID: of the second and third dimension of a launch
  const Limit limits[] = {
      {"num_layers", c.num_layers, 1, ANY},
      {"hidden", c.hidden, 2, ANY},
      {"inner", c.inner, 2, ANY},
      {"heads", c.heads, 1, GRID},
      {"kv_heads", c.kv_heads, 1, GRID},
      {"vocab", c.vocab, 1, ANY},
      {"window", c.window, 0, ANY},
      {"weight_type", c.weight_type, 0, 2},
      {"kv_type", c.kv_type, 0, 1},
      {"block_tokens", c.block_tokens, BLOCK_MULTIPLE, 1 << 16},
      {"num_blocks", c.num_blocks, 1, ANY},
      {"max_positions", c.max_positions, 1, ANY},
      {"max_rows", l.max_rows, 1, ANY},
      {"max_decode_rows", l.max_decode_rows, 0, smaller(l.max_rows, GRID)},
      {"max_logit_rows", l.max_logit_rows, 1, ANY},
  };
  for (const Limit& limit : limits) {
    if (limit.value < limit.low || limit.value > limit.high) {
      return std::string(limit.name) + " " + std::to_string(limit.value) + " is not in " + std::to_string(limit.low) +
             " .. " + std::to_string(limit.high);
    }
  }
  if (c.head_dim != 32 && c.head_dim != 64 && c.head_dim != 128) {
    return "head_dim " + std::to_string(c.head_dim) + " is not 32, 64 or 128";
  }
  if (c.heads % c.kv_heads) {
    return "heads " + std::to_string(c.heads) + " is no multiple of kv_heads " + std::to_string(c.kv_heads);
  }
  if (c.block_tokens % BLOCK_MULTIPLE) {
    return "block_tokens " + std::to_string(c.block_tokens) + " is no multiple of 16";
  }
  return "";
}

std::string shape_text(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

}  // namespace

int32_t fail(int32_t code, const std::string& sentence) {
  last_error = sentence;
  return code;
}

int32_t check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return AC_OK;
  cudaGetLastError();  // forget it
  return fail(ACU_DEVICE_FAILED, std::string(what) + ": " + cudaGetErrorString(error));
}

int32_t check_device(const char* where) { return check(cudaGetLastError(), where); }

}  // namespace acu

extern "C" {

int32_t acu_abi_version(void) { return ACU_ABI_VERSION; }

const char* acu_last_error(void) { return acu::last_error.c_str(); }

AcuModel* acu_model_create(const AcConfig* config, const AcuLimits* limits) {
  const bool is_known = config && config->struct_bytes == static_cast<int32_t>(sizeof(AcConfig)) && limits &&
                        limits->struct_bytes == static_cast<int32_t>(sizeof(AcuLimits));
  const std::string problem =
      is_known ? acu::find_problem(*config, *limits) : "AcConfig or AcuLimits is not the one of this library";
  if (!problem.empty()) {
    acu::fail(AC_BAD_ARGUMENT, problem);
    return nullptr;
  }
  auto made = std::make_unique<AcuModel>(*config, *limits);
  if (!made->take_memory()) {
    acu::fail(AC_NO_MEMORY,
              "no device memory for " + std::to_string(made->bytes()) + " bytes of weights, blocks and scratch");
    return nullptr;
  }
  if (made->has_bytes()) return made.release();
  made->multiplier = acu::Multiplier::create(made->is_narrow(), limits->row_invariant);
  return made->multiplier ? made.release() : nullptr;
}

void acu_model_destroy(AcuModel* model) { delete model; }

int64_t acu_model_bytes(const AcuModel* model) { return model->bytes(); }

int32_t acu_model_set_weight(AcuModel* model, const char* name, const void* data, int32_t dtype, int64_t rows,
                             int64_t cols, void* stream) {
  const auto found = model->parameters.find(name);
  if (found == model->parameters.end()) {
    return acu::fail(AC_BAD_ARGUMENT, std::string(name) + " is no weight of the model");
  }
  acu::Parameter& to = found->second;
  if (rows != to.rows || cols != to.cols) {
    return acu::fail(AC_BAD_ARGUMENT, std::string(name) + " has shape " + acu::shape_text(rows, cols) +
                                          ", the model needs " + acu::shape_text(to.rows, to.cols));
  }
  if (dtype != AC_F32 && dtype != AC_BF16) {
    return acu::fail(AC_BAD_ARGUMENT, std::string(name) + ": dtype must be 0 (f32) or 1 (bf16)");
  }
  const int64_t inputs = to.is_transposed ? rows : 1, outputs = to.is_transposed ? cols : rows * cols;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  const bool narrow = dtype == AC_BF16;
  if (to.to) acu::pack_transposed(data, narrow, to.to, to.to_narrow, inputs, outputs, on);
  if (to.bytes.numbers) {
    const bool is_tied = !to.is_transposed;  // an embedding [out, in]
    acu::pack_bytes(data, narrow, is_tied, to.bytes, is_tied ? cols : rows, is_tied ? rows : cols, on);
  }
  to.is_set = true;
  return acu::check_device("acu_model_set_weight");
}

int32_t acu_model_missing(const AcuModel* model, char* out, int32_t size) {
  int32_t count = 0;
  std::string names;
  const auto note = [&](const std::string& name) { names += (count++ ? ", " : "") + name; };
  for (const auto& [name, parameter] : model->parameters) {
    if (!parameter.is_set) note(name);
  }
  if (!model->has_rotary) note("rotary tables");
  if (size > 0) {
    names.resize(names.size() < static_cast<size_t>(size) ? names.size() : static_cast<size_t>(size) - 1);
    names.copy(out, names.size());
    out[names.size()] = '\0';
  }
  return count;
}

int32_t acu_model_set_rotary(AcuModel* model, const float* cosines, const float* sines, int32_t positions,
                             void* stream) {
  if (positions != model->config.max_positions) {
    return acu::fail(AC_BAD_ARGUMENT, "rotary tables of " + std::to_string(positions) + " positions, the model needs " +
                                          std::to_string(model->config.max_positions));
  }
  const size_t bytes = sizeof(float) * positions * (model->config.head_dim / 2);
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  cudaMemcpyAsync(model->cosines, cosines, bytes, cudaMemcpyDeviceToDevice, on);
  cudaMemcpyAsync(model->sines, sines, bytes, cudaMemcpyDeviceToDevice, on);
  model->has_rotary = true;
  return acu::check_device("acu_model_set_rotary");
}

int32_t acu_copy_block(AcuModel* model, int32_t source, int32_t target, void* stream) {
  const int32_t count = model->config.num_blocks;
  if (source < 0 || source >= count || target < 0 || target >= count) {
    return acu::fail(AC_BAD_ARGUMENT, "copy of block " + std::to_string(source) + " to " + std::to_string(target) +
                                          ": blocks are 0 .. " + std::to_string(count - 1));
  }
  const int64_t bytes = model->block_bytes(), pitch = model->layer_bytes();
  cudaMemcpy2DAsync(model->pool + target * bytes, pitch, model->pool + source * bytes, pitch, bytes,
                    model->config.num_layers, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
  return acu::check_device("acu_copy_block");
}

int32_t acu_model_set_reduce(AcuModel* model, AcuReduce reduce, void* context) {
  model->reduce = reduce;
  model->reduce_context = context;
  return AC_OK;
}

int32_t acu_model_set_vocab_range(AcuModel* model, int32_t first) {
  if (first < 0) return acu::fail(AC_BAD_ARGUMENT, "the first token id " + std::to_string(first) + " is negative");
  model->first_token = first;
  return AC_OK;
}

}  // extern "C"
