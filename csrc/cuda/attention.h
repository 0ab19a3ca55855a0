// Attention over the paged pool, in two ways that give the same bits.
#pragma once
#include "layout.h"
#include "numbers.h"

namespace acu {

struct Attention {
  const float* qkv;  // [rows, (heads + 2 kv_heads) head_dim], queries rotated
  const int32_t *slots, *positions, *block_tables;
  int max_blocks, heads, window;
  float scale;
  const void* pool;  // one layer's part
  bool is_narrow;
  BlockShape shape;
  Activations output;  // [rows, heads * head_dim]; zeros for idle rows
};

// Rows 0 .. rows - 1, each context split into chunks that work at the same time. partials: partial_floats() numbers;
// longest: every position is below it.
void attend_split(const Attention& job, int rows, int longest, float* partials, cudaStream_t stream);
int64_t partial_floats(int rows, int heads, int head_dim, int longest);

// Rows first .. rows - 1; neighbouring rows of a slot share the reading of keys and values.
void attend_tiles(const Attention& job, int first, int rows, cudaStream_t stream);

}  // namespace acu
