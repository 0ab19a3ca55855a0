"""A rollout in another layout than training has the very weights of training and gives the tokens of one process."""

from __future__ import annotations

from functools import cache

import numpy as np
import paddle
import pytest

from alignment.architecture.layout import Layout
from tests.distributed import ranks_fused
from tests.distributed.ranks_fused import CUDA
from tests.distributed.ranks_generation import IDS, OPTIONS, PROMPTS, build_engine, config_of, plain, whole_weights
from tests.distributed.ranks_together import run_together

pytestmark = pytest.mark.distributed

MODES = [(None, -1), ("single", -1), ("tensor_parallel", 2)]
CASES = {
    "TP2xPP2": (Layout(tensor=2, pipeline=2), MODES, ("qwen2",)),
    "PP4": (Layout(pipeline=4), [("single", -1), ("tensor_parallel", 2), ("tensor_parallel", 4)], ("one kv head",)),
    "Sh2 stage3": (Layout(sharding=2, sharding_stage=3), [(None, -1), ("tensor_parallel", 2)], ("qwen2", "qwen3")),
    "TP2xSh2 stage3": (Layout(tensor=2, sharding=2, sharding_stage=3), MODES, ("qwen3",)),
    "PP2 to the CUDA kernels": (Layout(pipeline=2), [("single", -1), ("tensor_parallel", 2)], (CUDA,)),
    "Sh2 stage3 to the CUDA kernels": (Layout(sharding=2, sharding_stage=3), [("tensor_parallel", 2)], (CUDA,)),
    "PP2 interleaved": (Layout(pipeline=2, virtual_stages=2), [(None, -1), ("single", -1)], ("llama",)),
}


@cache
def ranks_of(layout: Layout) -> dict[str, tuple]:
    """Return what every rank of a layout did in its cases, and ("refuse") how it met a degree that does not fit."""
    cases = {name: case for name, case in CASES.items() if case[0] == layout}
    calls = [("ranks_eval_mode:generate", *case) for case in cases.values()] + [("ranks_eval_mode:refuse", layout)]
    return dict(zip([*cases, "refuse"], run_together(layout, calls), strict=True))


@cache
def one_process(family: str, seed: int, kind: str) -> list[tuple]:
    config = ranks_fused.config_of(family) if family == CUDA else config_of(family)
    engine = build_engine(config)
    engine.load_weights(((n, paddle.to_tensor(w)) for n, w in whole_weights(config, seed).items()), 0)
    return plain(engine.generate(PROMPTS, OPTIONS[kind], seed=1, sequence_ids=IDS))


@pytest.mark.parametrize("name", CASES)
def test_the_rollout_has_the_weights_of_training_and_the_tokens_of_one_process(name):
    layout, modes, families = CASES[name]
    for found in ranks_of(layout)[name]:
        assert found["bitwise"]
        for mode in modes:
            for family in families:
                for seed in (0, 7):
                    for kind in ("sampled",) if family == CUDA else ("greedy", "sampled"):
                        _check(found[mode, family, seed, kind], one_process(family, seed, kind))
                _check_moves(layout, mode, found["moved"][mode, family], found["in place"][mode, family])


def _check(found: list[tuple], wanted: list[tuple]) -> None:
    assert [(f[0], f[2]) for f in found] == [(w[0], w[2]) for w in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)


def _check_moves(layout, mode, totals, in_place):
    assert in_place > 0 or layout.sharding_stage == 3 or totals.sent > 0
    if mode[0] is None and layout.sharding_stage < 3:
        assert (totals.sent, totals.copied) == (0, 0), "the layout of training is used as it is"
    else:
        assert totals.sent > 0


def test_a_degree_that_does_not_fit_is_refused_with_those_that_do():
    for message in ranks_of(Layout(pipeline=2))["refuse"]:
        assert "rollout_tensor_parallel_degree=3" in message and "allowed: 1, 2" in message
