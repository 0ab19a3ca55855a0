"""Weights moved between layouts by real processes: bit for bit, and no more bytes than planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import run_ranks

pytestmark = pytest.mark.distributed
QWEN = {"model_type": "qwen2", "tie_word_embeddings": True}
LLAMA = {"model_type": "llama"}
WHOLE = Layout(data=4)
CASES = {
    "stages and tensor parts to every rank whole": (LLAMA, Layout(tensor=2, pipeline=2), WHOLE),
    "stages to two replicas of tensor parts": (LLAMA, Layout(pipeline=4), Layout(tensor=2, data=2)),
    "interleaved stages to tensor parts": (LLAMA, Layout(pipeline=2, data=2, virtual_stages=2), Layout(tensor=4)),
    "rows to every rank whole": (LLAMA, Layout(sharding=4, sharding_stage=3), WHOLE),
    "rows of tensor parts to stages": (
        QWEN, Layout(tensor=2, sharding=2, sharding_stage=3), Layout(tensor=2, pipeline=2),
    ),
    "key heads that two ranks hold to whole ones": (LLAMA, Layout(tensor=4), Layout(tensor=2, pipeline=2)),
    "whole ones to key heads that two ranks hold": (LLAMA, WHOLE, Layout(tensor=4)),
    "tied embeddings on two stages to every rank whole": (QWEN, Layout(tensor=2, pipeline=2), WHOLE),
    "nothing changes": (QWEN, Layout(tensor=2, pipeline=2), Layout(tensor=2, pipeline=2)),
}  # fmt: skip


@pytest.mark.parametrize("bucket_bytes", [1000, 2**26])
def test_weights_move_between_layouts(bucket_bytes):
    results = run_ranks(
        "ranks_reshard:reshard_all",
        list(CASES.values()),
        bucket_bytes,
        world_size=4,
        search_path=[Path(__file__).parent],
    )
    for rank, found in enumerate(results):
        for number, case in enumerate(found):
            name = f"rank {rank}: {list(CASES)[number // 2]}, {('float32', 'bfloat16')[number % 2]}"
            assert case["wrong"] == [], name
            assert case["sent"] == case["planned"], name
            if "nothing changes" in name:
                assert case["totals"].zero_copy == case["totals"].wanted
