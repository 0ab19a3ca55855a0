"""The index functions of csrc/cuda/layout.h, which kernels and host share, in a program of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = r"""
#include "layout.h"
#include <cstdio>
#include <vector>
using namespace acu;

#define EXPECT(condition) \
  if (!(condition)) return std::printf("%s at %d %d %d\n", #condition, a, b, c), 1

// Every number of a block belongs to one key or one value, and a token's packets stand beside its neighbours'.
int check_block(int a, int b, int c, int packet) {
  const BlockShape shape{a, b, c, packet};
  std::vector<int> uses(shape.numbers());
  for (int head = 0; head < b; ++head) {
    for (int token = 0; token < a; ++token) {
      for (int d = 0; d < c; ++d) {
        ++uses.at(shape.key(head, token, d));
        ++uses.at(shape.value(head, token, d));
        EXPECT(shape.key(head, token, d) ==
               shape.key_start(head, token) + d / packet * a * packet + d % packet);
      }
      if (token > 0) EXPECT(shape.key(head, token, 0) - shape.key(head, token - 1, 0) == packet);
    }
  }
  for (int count : uses) EXPECT(count == 1);
  return 0;
}

// Tiles and chunks that a query meets hold what it sees, each position once.
int check_ranges(int a, int b) {
  const int c = 0;
  const Range seen = seen_from(a, b);
  EXPECT(seen.last == a && seen.first >= 0);
  EXPECT(seen.last - seen.first + 1 == (b == 0 || b > a ? a + 1 : b));
  int positions = 0;
  for (int chunk = seen.first / CHUNK; chunk <= seen.last / CHUNK; ++chunk) {
    EXPECT(seen.meets(chunk_range(chunk)));
    for (int place = 0; place < TILES_PER_CHUNK; ++place) {
      const Range tile = tile_range(chunk * TILES_PER_CHUNK + place);
      EXPECT(chunk_range(chunk).covers(tile));
      int here = 0;
      for (int position = tile.first; position <= tile.last; ++position) here += seen.holds(position);
      EXPECT((here > 0) == seen.meets(tile));
      EXPECT((here == TILE) == seen.covers(tile));
      positions += here;
    }
  }
  EXPECT(positions == seen.last - seen.first + 1);
  EXPECT(seen.first == 0 || !seen.meets(chunk_range(seen.first / CHUNK - 1)));
  EXPECT(!seen.meets(chunk_range(seen.last / CHUNK + 1)));
  return 0;
}

// Groups hold every query head of a key head, and no more vectors than fit.
int check_groups(int a, int b) {
  const int c = 0;
  const Grouping made = group_queries(a, b);
  EXPECT(made.heads_each * made.rows_each <= b && made.rows_each >= 1);
  EXPECT(made.heads_each * made.head_groups >= a && made.heads_each * (made.head_groups - 1) < a);
  EXPECT(made.rows_each == 1 || made.head_groups == 1);
  return 0;
}

int check_partials(int a, int b, int c) {  // heads, chunks, head_dim
  std::vector<int> uses(partial_start(3, a, 0, b, 0, c));
  for (int row = 0; row < 3; ++row) {
    for (int head = 0; head < a; ++head) {
      for (int chunk = 0; chunk < b; ++chunk) {
        for (int i = 0; i < c + 2; ++i) ++uses.at(partial_start(row, a, head, b, chunk, c) + i);
      }
    }
  }
  for (int count : uses) EXPECT(count == 1);
  return 0;
}

int main() {
  int problems = 0;
  for (int tokens : {16, 48, 64}) {
    for (int heads : {1, 3}) {
      for (int dim : {32, 64, 128}) problems += check_block(tokens, heads, dim, 4) + check_block(tokens, heads, dim, 8);
    }
  }
  for (int position = 0; position < 1100; ++position) {
    for (int window : {0, 1, 3, 31, 32, 33, 256, 257, 1000}) problems += check_ranges(position, window);
  }
  for (int per_key = 1; per_key <= 40; ++per_key) {
    for (int most : {1, 2, 4, 8}) problems += check_groups(per_key, most);
  }
  return problems + check_partials(5, 3, 32) + check_partials(1, 1, 128) > 0;
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_index_functions(repo_root: Path, tmp_path: Path):
    folder = repo_root / "csrc" / "cuda"
    (tmp_path / "check.cc").write_text(PROGRAM)
    flags = ["-std=c++17", "-O1", f"-I{folder}", f"-I{folder / 'emulated'}"]
    subprocess.run(["g++", *flags, str(tmp_path / "check.cc"), "-o", str(tmp_path / "check")], check=True)
    result = subprocess.run([str(tmp_path / "check")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
