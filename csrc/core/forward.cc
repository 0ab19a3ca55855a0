// One forward over flat rows: the plan of a call, and the layers, worked through by a team of threads.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "embedding.h"
#include "errors.h"
#include "experts.h"
#include "request.h"
#include "team.h"

namespace ac {
namespace {

// Rows to attend from, and the tiles they are cut into.
struct Plan {
  std::vector<int32_t> rows;
  std::vector<AttentionTile> tiles;  // for key head 0
};

Plan make_plan(const AcModel& model, const Request& q, std::vector<int32_t> rows) {
  Plan plan{std::move(rows), {}};
  const int per_key = model.config.heads / model.config.kv_heads;
  const int most = per_key < model.kernels->tile_rows ? model.kernels->tile_rows / per_key : 1;
  const int count = static_cast<int>(plan.rows.size());
  for (int begin = 0, end; begin < count; begin = end) {
    const int first = plan.rows[begin];
    for (end = begin + 1; end < count && end - begin < most; ++end) {
      const int row = plan.rows[end], before = plan.rows[end - 1];
      if (q.slots[row] != q.slots[first] || q.positions[row] <= q.positions[before]) break;
    }
    plan.tiles.push_back({q.blocks_of(first), plan.rows.data() + begin, end - begin, begin, 0});
  }
  return plan;
}

// Memory of one call. Activations are bf16 where bf16 is multiplied, else f32; the residual stream is always f32.
struct Buffers {
  Rows residual, last_residual, partial, qkv, normed, mixed, gated;
  ExpertBuffers experts;
  EmbeddingBuffers embeddings;
  float* means;      // [rows, 2], then 1, where queries and keys are normalised over all heads
  float* attention;  // [threads, attention_floats]
  int64_t attention_floats;
};

Buffers lay_out(Carver& carver, const AcModel& model, const Request& q) {
  const AcConfig& c = model.config;
  const bool narrow_inputs = model.narrow_inputs();
  const int64_t rows = q.num_rows > q.num_logit_rows ? q.num_rows : q.num_logit_rows;
  int64_t positions = 0;
  for (int row = 0; row < q.num_rows; ++row) {
    if (q.positions[row] >= positions) positions = q.positions[row] + 1;
  }
  Buffers made;
  made.residual = take_rows(carver, q.num_rows, c.hidden, false);
  made.last_residual = take_rows(carver, q.num_logit_rows, c.hidden, false);
  made.partial = take_rows(carver, model.reduce || c.post_norms || c.experts ? rows : 0, c.hidden, false);
  made.qkv = take_rows(carver, q.num_rows, (c.heads + 2 * c.kv_heads) * c.head_dim, false);
  made.normed = take_rows(carver, rows, c.hidden, narrow_inputs);
  made.mixed = take_rows(carver, rows, c.heads * c.head_dim, narrow_inputs);
  made.gated = take_rows(carver, rows, c.inner, narrow_inputs);
  made.experts = lay_out_experts(carver, model, rows);
  made.embeddings = lay_out_embeddings(carver, model, rows);
  made.means = model.norms_all_heads() ? carver.take<float>(2 * q.num_rows + 1) : nullptr;
  made.attention_floats = attention_scratch(*model.kernels, c.head_dim, positions);
  made.attention = carver.take<float>(made.attention_floats * q.threads);
  return made;
}

// What one thread of the team does. Every step ends in a barrier.
class Worker {
 public:
  Worker(AcModel& model, const Request& request, const Buffers& buffers)
      : model_(model), config_(model.config), kernels_(*model.kernels), q_(request), buffers_(buffers),
        share_{omp_get_thread_num(), omp_get_num_threads()}, team_{*model.kernels, share_, &model.bytes_read} {}

  // `all`: every row; `wanted`: those whose logits are asked for, the only ones that finish the last layer.
  void run(const Plan& all, const Plan& wanted) {
    Rows residual = buffers_.residual;
    const Embedder ends(model_, team_, q_, buffers_.embeddings);
    ends.embed(residual);
    for (int i = 0; i < config_.num_layers; ++i) {
      const Layer& layer = model_.layers[i];
      const bool is_last = i + 1 == config_.num_layers;
      const Plan& plan = is_last ? wanted : all;
      project(i, residual);
      if (is_last) residual = keep_wanted();
      attend(i, plan);
      const int num_rows = static_cast<int>(plan.rows.size());
      const Norm& feed_norm = config_.no_feed_norm ? layer.input_norm : layer.feed_norm;
      if (config_.parallel) normalise(residual, feed_norm, num_rows);
      add_product(layer.output, buffers_.mixed, residual, num_rows, layer.attended_norm);
      normalise_sum(residual, layer.attended_sum_norm, num_rows);
      if (!config_.parallel) normalise(residual, feed_norm, num_rows);
      feed(i, residual, plan);
      normalise_sum(residual, layer.fed_sum_norm, num_rows);
    }
    normalise(residual, model_.norm, q_.num_logit_rows);
    const Rows logits{q_.logits, nullptr, config_.vocab};
    const Rows read = ends.narrow_down(buffers_.normed, q_.num_logit_rows);
    multiply({&model_.head, read, q_.num_logit_rows, logits, Finish::store, config_.vocab});
    if (config_.logit_cap > 0.0f) cap_logits();
  }

 private:
  void wait() const { team_.wait(); }

  void multiply(const Product& product) {
    team_.multiply(product);
    wait();
  }

  void cap_logits() {
    for (int row = share_.begin(q_.num_logit_rows); row < share_.end(q_.num_logit_rows); ++row) {
      kernels_.cap(q_.logits + static_cast<int64_t>(row) * config_.vocab, config_.vocab, config_.logit_cap);
    }
    wait();
  }

  void normalise(const Rows& from, const Norm& norm, int num_rows) {
    for (int row = share_.begin(num_rows); row < share_.end(num_rows); ++row) {
      Rows to = buffers_.normed;
      if (to.wide) to.wide += row * to.stride;
      if (to.narrow) to.narrow += row * to.stride;
      kernels_.normalise(from.wide + row * from.stride, norm, config_.hidden, config_.rms_eps, to);
    }
    wait();
  }

  // Hidden states in their place; those without such a norm stay.
  void normalise_sum(const Rows& residual, const Norm& norm, int num_rows) {
    if (!norm.weight) return;
    for (int row = share_.begin(num_rows); row < share_.end(num_rows); ++row) {
      float* x = residual.wide + row * residual.stride;
      kernels_.normalise(x, norm, config_.hidden, config_.rms_eps, {x, nullptr, 0});
    }
    wait();
  }

  // The mean squares of queries and keys over the heads of all ranks. Each rank has equally many heads, copied ones
  // included, so these are the means of the ranks' means.
  void find_means() const {
    const int dim = config_.head_dim, queries = config_.heads * dim, count = 2 * q_.num_rows;
    float* means = buffers_.means;
    for (int row = share_.begin(q_.num_rows); row < share_.end(q_.num_rows); ++row) {
      const float* x = buffers_.qkv.wide + row * buffers_.qkv.stride;
      means[2 * row] = kernels_.mean_square(x, queries);
      means[2 * row + 1] = kernels_.mean_square(x + queries, config_.kv_heads * dim);
    }
    wait();
    if (!model_.reduce) return;
    if (share_.index == 0) {
      means[count] = 1.0f;
      model_.reduce(model_.reduce_context, means, count + 1);
      for (int i = 0; i < count; ++i) means[i] /= means[count];
    }
    wait();
  }

  // Queries, keys and values of every row; keys and values go to the cache.
  void project(int number, const Rows& residual) {
    const Layer& layer = model_.layers[number];
    normalise(residual, layer.input_norm, q_.num_rows);
    const Rows& qkv = buffers_.qkv;
    multiply({&layer.qkv, buffers_.normed, q_.num_rows, qkv, Finish::store, 0});
    if (buffers_.means) find_means();
    const HeadWork work{model_.cache(number), config_.heads, layer.query_norm, layer.key_norm, config_.rms_eps};
    const int half = config_.head_dim / 2;
    for (int row = share_.begin(q_.num_rows); row < share_.end(q_.num_rows); ++row) {
      const int64_t position = q_.positions[row];
      const int64_t angle = model_.angles() * model_.table_of(number, q_.slots[row]) + position * half;
      kernels_.place_row(work, qkv.wide + row * qkv.stride, buffers_.means ? buffers_.means + 2 * row : nullptr,
                         model_.cosines + angle, model_.sines + angle,
                         q_.blocks_of(row)[position / config_.block_tokens],
                         static_cast<int>(position % config_.block_tokens));
    }
    wait();
  }

  void attend(int number, const Plan& plan) {
    const Attention job{model_.cache(number), buffers_.qkv, buffers_.mixed, q_.positions, config_.heads,
                        model_.windows[number],
                        config_.attention_scale > 0.0f ? config_.attention_scale
                                                       : 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                        config_.attention_cap};
    const int64_t items = static_cast<int64_t>(plan.tiles.size()) * config_.kv_heads;
// monotonic: what g++ asks for otherwise is missing in the OpenMP runtime that Paddle brings.
#pragma omp for schedule(monotonic : dynamic)
    for (int64_t item = 0; item < items; ++item) {
      AttentionTile tile = plan.tiles[item / config_.kv_heads];
      tile.kv_head = static_cast<int>(item % config_.kv_heads);
      kernels_.attend(job, tile, buffers_.attention + share_.index * buffers_.attention_floats);
    }
  }

  // residual += input x weights + biases, summed over the ranks before the biases and normalised after them.
  void add_product(const Matrix& weights, const Rows& input, const Rows& residual, int num_rows, const Norm& norm) {
    if (!model_.reduce && !norm.weight) {
      return multiply({&weights, input, num_rows, residual, Finish::add, config_.hidden});
    }
    Matrix unbiased = weights;
    unbiased.biases = nullptr;
    multiply({&unbiased, input, num_rows, buffers_.partial, Finish::store, config_.hidden});
    add_partial(weights.biases, residual, num_rows, norm);
  }

  // residual += partial + biases, likewise
  void add_partial(const float* biases, const Rows& residual, int num_rows, const Norm& norm) {
    sum_over_ranks(model_, team_, buffers_.partial, num_rows);
    for (int row = share_.begin(num_rows); row < share_.end(num_rows); ++row) {
      float* to = residual.wide + row * residual.stride;
      float* from = buffers_.partial.wide + row * buffers_.partial.stride;
      if (biases) {
        for (int i = 0; i < config_.hidden; ++i) from[i] += biases[i];
      }
      if (norm.weight) kernels_.normalise(from, norm, config_.hidden, config_.rms_eps, {from, nullptr, 0});
      for (int i = 0; i < config_.hidden; ++i) to[i] += from[i];
    }
    wait();
  }

  // residual += the feed-forward block of the normalised rows
  void feed(int number, const Rows& residual, const Plan& plan) {
    const Layer& layer = model_.layers[number];
    const int num_rows = static_cast<int>(plan.rows.size());
    if (layer.has_experts) {
      uint16_t* to = model_.chosen_experts ? model_.chosen_experts + number * config_.top_k : nullptr;
      const RoutesRecord record{to, static_cast<int64_t>(config_.num_layers) * config_.top_k, plan.rows.data()};
      ExpertFeed(model_, team_, buffers_.experts).run(layer, buffers_.normed, num_rows, buffers_.partial, record);
      return add_partial(nullptr, residual, num_rows, layer.fed_norm);
    }
    multiply({&layer.feed.gate_up, buffers_.normed, num_rows, buffers_.gated,
              config_.plain_feed ? Finish::activate : Finish::gate, config_.inner,
              static_cast<Activation>(config_.activation)});
    add_product(layer.feed.down, buffers_.gated, residual, num_rows, layer.fed_norm);
  }

  Rows keep_wanted() {
    const Rows &from = buffers_.residual, &to = buffers_.last_residual;
    for (int i = share_.begin(q_.num_logit_rows); i < share_.end(q_.num_logit_rows); ++i) {
      std::memcpy(to.wide + i * to.stride, from.wide + q_.logit_rows[i] * from.stride, config_.hidden * sizeof(float));
    }
    wait();
    return to;
  }

  const AcModel& model_;
  const AcConfig& config_;
  const Kernels& kernels_;
  const Request& q_;
  const Buffers& buffers_;
  const Share share_;
  const Team team_;
};

void forward(AcModel& model, const Request& request) {
  Carver counter(nullptr);
  lay_out(counter, model, request);
  if (counter.used() > model.scratch.bytes()) model.scratch = Memory(counter.used());
  Carver carver(model.scratch.data());
  const Buffers buffers = lay_out(carver, model, request);
  std::vector<int32_t> every(request.num_rows);
  for (int row = 0; row < request.num_rows; ++row) every[row] = row;
  const Plan all = make_plan(model, request, std::move(every));
  const Plan wanted = make_plan(
      model, request, std::vector<int32_t>(request.logit_rows, request.logit_rows + request.num_logit_rows));
#pragma omp parallel num_threads(request.threads)
  Worker(model, request, buffers).run(all, wanted);
}

}  // namespace
}  // namespace ac

extern "C" int32_t ac_model_record_experts(AcModel* model, uint16_t* experts) {
  if (!model->config.experts) return ac::fail(AC_BAD_ARGUMENT, "the model has no experts to record");
  model->chosen_experts = experts;
  return AC_OK;
}

extern "C" int32_t ac_forward(AcModel* model, int32_t rows, const int32_t* tokens, const int32_t* slots,
                              const int32_t* positions, const int32_t* block_tables, int32_t max_blocks,
                              int32_t num_logit_rows, const int32_t* logit_rows, float* logits, int32_t threads) {
  const ac::Request request{rows,       tokens,         slots,      positions, block_tables,
                            max_blocks, num_logit_rows, logit_rows, logits,    threads};
  if (const int32_t missing = ac_model_missing(model, nullptr, 0)) {
    return ac::fail(AC_NOT_READY, std::to_string(missing) + " weights of the model were never set");
  }
  const std::string problem = ac::find_problem(*model, request);
  if (!problem.empty()) return ac::fail(AC_BAD_ARGUMENT, problem);
  try {
    ac::forward(*model, request);
  } catch (const std::bad_alloc&) {
    return ac::fail(AC_NO_MEMORY, "no memory for a call of " + std::to_string(rows) + " rows");
  }
  return AC_OK;
}
