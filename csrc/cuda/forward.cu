// One forward over flat rows: the kernels of a step, put on a stream in order.
#include "errors.h"
#include "launch.h"
#include "model.h"
#include "rows.h"

namespace acu {
namespace {

// The arguments of acu_forward.
struct Request {
  int rows;
  const int32_t *tokens, *slots, *positions, *block_tables;
  int max_blocks, num_logit_rows;
  const int32_t* logit_rows;
  float* logits;
  int decode_rows, longest;
  cudaStream_t stream;
};

std::string find_problem(const AcuModel& model, const Request& q) {
  const AcuLimits& l = model.limits;
  const auto out_of = [](const char* name, int value, int low, int high) {
    return std::string(name) + " " + std::to_string(value) + " is not in " + std::to_string(low) + " .. " +
           std::to_string(high);
  };
  const int most_decode = smaller(q.rows, l.max_decode_rows);
  if (q.rows < 0 || q.rows > l.max_rows) return out_of("rows", q.rows, 0, l.max_rows);
  if (q.decode_rows < 0 || q.decode_rows > most_decode) return out_of("decode_rows", q.decode_rows, 0, most_decode);
  if (q.num_logit_rows < 0 || q.num_logit_rows > l.max_logit_rows) {
    return out_of("num_logit_rows", q.num_logit_rows, 0, l.max_logit_rows);
  }
  if (q.longest < 1 || q.longest > model.config.max_positions) {
    return out_of("longest", q.longest, 1, model.config.max_positions);
  }
  if (q.max_blocks < 1) return out_of("max_blocks", q.max_blocks, 1, 1 << 30);
  return "";
}

class Forward {
 public:
  Forward(AcuModel& model, const Request& request)
      : model_(model), config_(model.config), scratch_(model.scratch), q_(request) {}

  // 0 or an error code.
  int32_t run() {
    if (q_.rows == 0) return AC_OK;
    const Embedding embedding{model_.embedding, model_.embeds_narrow(), config_.vocab, config_.hidden, model_.first_token};
    embed(embedding, q_.tokens, q_.rows, scratch_.residual, q_.stream);
    reduce(scratch_.residual);
    const float* bias = nullptr;  // of the partial result that the residual still lacks
    for (int i = 0; i < config_.num_layers && !code_; ++i) {
      const Layer& layer = model_.layers[i];
      normalise(layer.input_norm, i > 0, bias);
      attend(layer, i);
      normalise(layer.feed_norm, true, layer.output_bias);
      feed(layer);
      bias = layer.down_bias;
    }
    if (!code_ && q_.num_logit_rows > 0) predict(bias);
    return code_ ? code_ : check_device("acu_forward");
  }

 private:
  void multiply(const Activations& inputs, const Matrix& weights, float* outputs, int in, int out, int rows) {
    if (model_.has_bytes()) return multiply_bytes({inputs, weights.bytes, outputs, rows, in, out}, q_.stream);
    const void* from = inputs.narrow ? static_cast<const void*>(inputs.narrow) : inputs.wide;
    if (!code_) code_ = model_.multiplier->multiply({from, weights.numbers, outputs, rows, in, out}, q_.stream);
  }

  // Sum over the ranks.
  void reduce(float* data) {
    const int64_t count = static_cast<int64_t>(q_.rows) * config_.hidden;
    if (model_.reduce && !code_) model_.reduce(model_.reduce_context, data, count, q_.stream);
  }

  Normalisation norm_of(const float* weight, const float* bias) const {
    return {scratch_.residual, scratch_.partial, bias, weight, nullptr, true, config_.hidden, config_.rms_eps,
            scratch_.normed};
  }

  void normalise(const float* weight, bool has_partial, const float* bias) {
    Normalisation job = norm_of(weight, bias);
    if (!has_partial) job.partial = nullptr, job.keeps_sum = false;
    add_normalise(job, q_.rows, q_.stream);
  }

  void attend(const Layer& layer, int index) {
    char* pool = model_.pool + index * model_.layer_bytes();
    const bool narrow_pool = config_.kv_type == AC_BF16;
    multiply(scratch_.normed, layer.qkv, scratch_.qkv, config_.hidden, model_.qkv_width(), q_.rows);
    place_rows({scratch_.qkv, layer.qkv_bias, layer.query_norm, layer.key_norm, model_.cosines, model_.sines, q_.slots,
                q_.positions, q_.block_tables, q_.max_blocks, config_.heads, config_.rms_eps, pool, narrow_pool,
                model_.shape},
               q_.rows, q_.stream);
    const float scale = 1.0f / sqrtf(static_cast<float>(config_.head_dim));
    const Attention job{scratch_.qkv,   q_.slots, q_.positions, q_.block_tables, q_.max_blocks, config_.heads,
                        config_.window, scale,    pool,         narrow_pool,     model_.shape,  scratch_.mixed};
    attend_split(job, q_.decode_rows, q_.longest, scratch_.split, q_.stream);
    attend_tiles(job, q_.decode_rows, q_.rows, q_.stream);
    multiply(scratch_.mixed, layer.output, scratch_.partial, model_.mixed_width(), config_.hidden, q_.rows);
    reduce(scratch_.partial);
  }

  void feed(const Layer& layer) {
    multiply(scratch_.normed, layer.gate_up, scratch_.gate_up, config_.hidden, 2 * config_.inner, q_.rows);
    gate(scratch_.gate_up, layer.gate_up_bias, scratch_.gated, q_.rows, config_.inner, q_.stream);
    multiply(scratch_.gated, layer.down, scratch_.partial, config_.inner, config_.hidden, q_.rows);
    reduce(scratch_.partial);
  }

  // Logits of the rows asked for.
  void predict(const float* bias) {
    Normalisation job = norm_of(model_.norm, bias);
    job.picked = q_.logit_rows;
    job.keeps_sum = false;
    add_normalise(job, q_.num_logit_rows, q_.stream);
    multiply(scratch_.normed, model_.head, q_.logits, config_.hidden, config_.vocab, q_.num_logit_rows);
  }

  AcuModel& model_;
  const AcConfig& config_;
  const Scratch& scratch_;
  const Request& q_;
  int32_t code_ = AC_OK;
};

enum Reason { BAD_TOKEN, BAD_POSITION, BAD_ORDER, SHORT_TABLE, BAD_BLOCK, NUM_REASONS = 8 };

// Reason that acu_forward must not be given `row`, or -1.
struct RowCheck {
  const int32_t *tokens, *slots, *positions, *block_tables;
  int max_blocks, first_token, vocab, longest, window, block_tokens, num_blocks;

  __device__ int find(int row) const {
    const int slot = slots[row], position = positions[row], token = tokens[row] - first_token;
    if (slot < 0) return -1;
    if (vocab > 0 && (token < 0 || token >= vocab)) return BAD_TOKEN;
    if (position < 0 || position >= longest) return BAD_POSITION;
    if (row > 0 && slots[row - 1] == slot && positions[row - 1] >= position) return BAD_ORDER;
    if (position / block_tokens >= max_blocks) return SHORT_TABLE;
    for (int i = seen_from(position, window).first / block_tokens; i <= position / block_tokens; ++i) {
      const int block = block_tables[static_cast<int64_t>(slot) * max_blocks + i];
      if (block < 0 || block >= num_blocks) return BAD_BLOCK;
    }
    return -1;
  }
};

constexpr int CHECK_THREADS = 128;

__global__ void check_kernel(RowCheck check, int rows, int32_t* problem) {
  const int row = blockIdx.x * CHECK_THREADS + threadIdx.x;
  if (row >= rows) return;
  const int reason = check.find(row);
  if (reason >= 0) atomicMin(problem, 1 + NUM_REASONS * row + reason);
}

}  // namespace
}  // namespace acu

extern "C" {

int32_t acu_forward(AcuModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                    const int32_t* positions, const int32_t* block_tables, int32_t max_blocks, int32_t num_logit_rows,
                    const int32_t* logit_rows, float* logits, int32_t decode_rows, int32_t longest, void* stream) {
  if (const int32_t missing = acu_model_missing(model, nullptr, 0)) {
    return acu::fail(AC_NOT_READY, std::to_string(missing) + " weights of the model were never set");
  }
  const acu::Request request{rows,           tokens,     slots,  positions,   block_tables, max_blocks,
                             num_logit_rows, logit_rows, logits, decode_rows, longest,
                             static_cast<cudaStream_t>(stream)};
  const std::string problem = acu::find_problem(*model, request);
  if (!problem.empty()) return acu::fail(AC_BAD_ARGUMENT, problem);
  return acu::Forward(*model, request).run();
}

int32_t acu_check_rows(const AcuModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                       const int32_t* positions, const int32_t* block_tables, int32_t max_blocks, int32_t longest,
                       int32_t* problem, void* stream) {
  const AcConfig& c = model->config;
  const int vocab = model->reduce ? 0 : c.vocab;  // several ranks: any token may be another rank's
  const acu::RowCheck check{tokens,  slots,    positions,      block_tables, max_blocks, model->first_token, vocab,
                            longest, c.window, c.block_tokens, c.num_blocks};
  const dim3 grid(static_cast<unsigned>(acu::ceil_divide(rows, acu::CHECK_THREADS)));
  acu::launch(acu::check_kernel, grid, acu::CHECK_THREADS, 0, static_cast<cudaStream_t>(stream), check, rows, problem);
  return acu::check_device("acu_check_rows");
}

}  // extern "C"
