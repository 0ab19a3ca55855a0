// Which experts each row is given to, and the copies of rows that go to the experts of this rank.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ac {

// Of one layer and call. A row chooses k experts; a copy is a row that is given to one of this rank's experts. Copies
// stand expert by expert, those of one expert in the order of their rows.
struct Routes {
  int32_t* experts;  // [rows, k], the likeliest first
  float* weights;    // [rows, k], of their outputs
  int32_t* places;   // [rows, k], of the copy among all copies; -1: the expert is another rank's
  int32_t* rows;     // [copies], of each copy its row
  int32_t* first;    // [experts of this rank + 1], the first copy of each
};

// Where the choices of one layer are written: those of row i to `to` + rows[i] * stride. `to` null: nowhere.
struct RoutesRecord {
  uint16_t* to;
  int64_t stride;
  const int32_t* rows;
};

// Sort one row's softmax: its k likeliest experts (of equals the first) with their probabilities, which are divided by
// their sum where `normalises`. The numbers of a row depend on its scores alone. `scores` become probabilities.
inline void choose_experts(float* scores, int count, int top_k, bool normalises, int32_t* experts, float* weights) {
  float largest = scores[0], total = 0.0f, of_chosen = 0.0f;
  for (int i = 1; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
  for (int i = 0; i < count; ++i) total += scores[i] = std::exp(scores[i] - largest);
  for (int i = 0; i < count; ++i) scores[i] /= total;
  for (int k = 0; k < top_k; ++k) {
    int best = -1;
    for (int i = 0; i < count; ++i) {
      bool is_taken = false;
      for (int j = 0; j < k; ++j) is_taken = is_taken || experts[j] == i;
      if (!is_taken && (best < 0 || scores[i] > scores[best])) best = i;
    }
    experts[k] = best;
    weights[k] = scores[best];
    of_chosen += scores[best];
  }
  for (int k = 0; normalises && k < top_k; ++k) weights[k] /= of_chosen;
}

// Fill places, rows and first of `routes` from its experts; this rank has `held` of them from `first_expert` on.
inline void sort_copies(const Routes& routes, int num_rows, int top_k, int first_expert, int held) {
  std::memset(routes.first, 0, sizeof(int32_t) * (held + 1));
  const int count = num_rows * top_k;
  for (int i = 0; i < count; ++i) {
    const int expert = routes.experts[i] - first_expert;
    if (expert >= 0 && expert < held) ++routes.first[expert + 1];
  }
  for (int expert = 0; expert < held; ++expert) routes.first[expert + 1] += routes.first[expert];
  for (int i = 0; i < count; ++i) {
    const int expert = routes.experts[i] - first_expert;
    routes.places[i] = expert >= 0 && expert < held ? routes.first[expert]++ : -1;
    if (routes.places[i] >= 0) routes.rows[routes.places[i]] = i / top_k;
  }
  for (int expert = held; expert > 0; --expert) routes.first[expert] = routes.first[expert - 1];
  routes.first[0] = 0;
}

}  // namespace ac
